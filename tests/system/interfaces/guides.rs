//! The requests of the guides.

use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::world::World;
use serde_json::json;

use crate::interfaces::each;

/// The request of the custom network guide, as it is printed there.
const MY_INSTANCE: &str = r#"{
    "name": "my-instance",
    "image": "nginx:latest",
    "network_interfaces": [
      {
        "name": "my-instance-private"
      },
      {
        "name": "my-instance-public",
        "ip": "192.168.0.1/30",
        "tap_name": "vpc0",
        "autoconfig": true
      }
    ],
    "gateway": "192.168.0.100",
    "nameserver": "1.2.3.4"
  }"#;

/// The relay of the same guide.
const MY_GATEWAY: &str = r#"{
    "name": "my-gateway",
    "network_interfaces": [
      {
        "name": "my-gateway-iface"
      }
    ]
  }"#;

/// Its client.
const MY_SANDBOX: &str = r#"{
    "name": "my-sandbox",
    "network_interfaces": [
      {
        "relay": {
          "name": "my-gateway-iface",
          "relay_dns": true
        }
      }
    ]
  }"#;

/// The request of the machine guide.
const WEB_SERVER: &str = r#"{
    "name": "web-server",
    "vcpu_count": 2,
    "mem_size_mib": 512,
    "kernel_image_path": ".hyperfleet/vmlinux",
    "rootfs_path": ".hyperfleet/alpine-rootfs.ext4"
  }"#;

#[test]
fn the_example_requests_of_the_guides_work_as_they_stand() {
    let world = World::new();
    let agent = world.agent("");
    // A-1: the alias answers with the state at its commit.
    let machine = agent.api("POST", "/machines", WEB_SERVER);
    assert_eq!(machine.status, 201, "{machine:?}");
    for (member, value) in [
        ("name", json!("web-server")),
        ("status", json!("pending")),
        ("tap_device", json!("tap0")),
        ("tap_ip", json!("172.16.0.1")),
        ("guest_ip", json!("172.16.0.2")),
        ("guest_mac", json!("AA:FC:00:00:00:01")),
        ("vcpu_count", json!(2)),
        ("rootfs_path", json!(".hyperfleet/alpine-rootfs.ext4")),
    ] {
        assert_eq!(machine.body[member], value, "{member}: {machine:?}");
    }
    wait_until("the machine runs", SOON, || {
        agent.api("GET", "/machines/web-server", "").body["status"] == "running"
    });

    let mine = agent.api("POST", "/v1/instances", MY_INSTANCE);
    assert_eq!(
        (mine.status, &mine.body["status"]),
        (201, &json!("running")),
        "{mine:?}"
    );
    let mine = mine.body;
    assert_eq!(mine["image"], "nginx:latest");
    assert_eq!(
        (&mine["private_ip"], &mine["guest_ip"]),
        (&json!("172.16.0.6"), &json!("172.16.0.6"))
    );
    assert_eq!(
        (&mine["gateway"], &mine["nameserver"]),
        (&json!("192.168.0.100"), &json!("1.2.3.4"))
    );
    assert_eq!(
        each(&mine, "name"),
        ["my-instance-private", "my-instance-public"]
    );
    assert_eq!(each(&mine, "tap_name"), ["tap1", "vpc0"]);
    assert_eq!(each(&mine, "ip"), ["172.16.0.6/30", "192.168.0.1/30"]);
    assert_eq!(each(&mine, "mode"), ["nat", "nat"]);
    assert!(world.host.links().contains(&"vpc0".to_owned()));

    let relay = agent.api("POST", "/v1/instances", MY_GATEWAY);
    assert_eq!(relay.status, 201, "{relay:?}");
    assert_eq!(each(&relay.body, "name"), ["my-gateway-iface"]);
    let client = agent.api("POST", "/v1/instances", MY_SANDBOX);
    assert_eq!(client.status, 201, "{client:?}");
    assert_eq!(client.body["status"], "running");
    assert_eq!(
        client.body["network_interfaces"][0]["relay"],
        json!({ "name": "my-gateway-iface", "relay_dns": true })
    );
    let exposed = WEB_SERVER.replace(
        "\"web-server\",",
        "\"exposed\", \"exposed_ports\": [80, 443, 8080],",
    );
    let exposed = agent.api("POST", "/machines", &exposed);
    assert_eq!(
        (exposed.status, &exposed.body["exposed_ports"]),
        (201, &json!(["80/tcp", "443/tcp", "8080/tcp"])),
        "{exposed:?}"
    );
    let exec = r#"{"cmd": ["ip", "addr", "show", "eth0"]}"#;
    assert_eq!(
        agent.api("POST", "/machines/web-server/exec", exec).status,
        501
    );
}
