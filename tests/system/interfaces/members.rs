//! What an instance and its interfaces consist of, and that their number and kind stay.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use netagent_tests::agent::Agent;
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::packet;
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, World};
use serde_json::{Value, json};

use crate::exchange::Way;

use crate::interfaces::{each, flow, reserve};

fn keys(object: &Value) -> BTreeSet<&str> {
    object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn an_instance_has_one_to_four_interfaces_and_one_where_none_is_named() {
    let world = World::new();
    let agent = world.agent("");
    let omitted = reserve(&agent, json!({}));
    let empty = reserve(&agent, json!({ "network_interfaces": [{}] }));
    assert_eq!(keys(&omitted), keys(&empty));
    let (omitted, empty) = (&omitted["network_interfaces"], &empty["network_interfaces"]);
    assert_eq!(
        (
            omitted.as_array().map(Vec::len),
            empty.as_array().map(Vec::len)
        ),
        (Some(1), Some(1))
    );
    assert_eq!(keys(&omitted[0]), keys(&empty[0]));
    for member in ["mode", "mtu", "autoconfig", "model", "relay"] {
        assert_eq!(omitted[0][member], empty[0][member], "{member}");
    }
    let four = agent.create(&json!({ "network_interfaces": [{}, {}, {}, {}] }));
    assert_eq!(
        each(&four, "ip"),
        [
            "172.16.0.10/30",
            "172.16.0.14/30",
            "172.16.0.18/30",
            "172.16.0.22/30"
        ]
    );
    assert_eq!(each(&four, "tap_name"), ["tap2", "tap3", "tap4", "tap5"]);
    assert_eq!(four["private_ip"], "172.16.0.10");
    for count in [0, 5] {
        let spec = json!({ "network_interfaces": vec![json!({}); count] });
        let text = format!("An instance has one to four network interfaces, not {count}");
        agent.refuse(&spec, (400, &text));
    }
}

#[test]
fn an_announced_port_of_the_primary_is_shown_kept_and_opens_nothing() {
    let world = World::new();
    let mut agent = world.agent("");
    let spec = json!({ "name": "web", "network_interfaces": [{}, {}] });
    let guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    let announce = |agent: &Agent, ip: &str, port: u16, protocol: &str| {
        let body = json!({ "ip": ip, "port": port, "protocol": protocol });
        let path = "/v1/instances/web/announcements";
        let answer = agent.api("PUT", path, &body.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["accepted"].as_bool().unwrap()
    };
    assert!(announce(&agent, "172.16.0.2", 8_080, "udp"));
    assert!(announce(&agent, "172.16.0.2", 443, "tcp"));
    assert!(
        !announce(&agent, "172.16.0.6", 80, "tcp"),
        "the second interface's"
    );
    assert!(!announce(&agent, "172.16.0.1", 80, "tcp"), "the host's");
    let expected =
        json!([{ "port": 443, "protocol": "tcp" }, { "port": 8_080, "protocol": "udp" }]);
    let shown = |agent: &Agent| {
        let mut ports = agent.inspect("web")["announced_ports"].clone();
        let list = ports.as_array_mut().unwrap();
        list.sort_by_key(|port| port["port"].as_u64());
        ports
    };
    assert_eq!(shown(&agent), expected);

    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    let host = world
        .host
        .run(|| std::net::UdpSocket::bind("0.0.0.0:0"))
        .unwrap();
    host.send_to(b"from the host", "172.16.0.2:8080").unwrap();
    wire.send_bytes(packet::udp(
        &way.back(SILENT[0]),
        (53, 8_080),
        b"from the world",
    ));
    way.check(flow(8_000));
    let unasked = |nic: &Nic| {
        let frames = std::iter::from_fn(|| nic.tap.receive_now());
        frames.map(|frame| frame.completed()).any(|bytes| {
            packet::Packet::parse(&bytes)
                .is_some_and(|packet| packet.payload.starts_with(b"from the "))
        })
    };
    assert!(!guest.nics.iter().any(unasked));

    agent.kill9();
    agent.run();
    assert_eq!(shown(&agent), expected, "they survive the agent");
    for bad in [
        json!({ "ip": "172.16.0.2", "port": 0, "protocol": "tcp" }),
        json!({ "ip": "172.16.0.2", "port": 65_536, "protocol": "tcp" }),
        json!({ "ip": "172.16.0.2", "port": 80, "protocol": "icmp" }),
        json!({ "ip": "somewhere", "port": 80, "protocol": "tcp" }),
        json!({ "port": 80, "protocol": "tcp" }),
        json!({ "ip": "172.16.0.2", "port": 80, "protocol": "tcp", "colour": "red" }),
    ] {
        let path = "/v1/instances/web/announcements";
        let answer = agent.api("PUT", path, &bad.to_string());
        assert_eq!(answer.status, 400, "{bad}: {answer:?}");
        assert!(!answer.message().is_empty(), "{bad}");
    }
}

fn is_uuid(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.len() == 36 && text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
}

/// Members of every interface (I-14).
const MEMBERS: [&str; 11] = [
    "id",
    "name",
    "mode",
    "tap_name",
    "ip",
    "ip6",
    "tap_ip",
    "mac",
    "mtu",
    "autoconfig",
    "relay",
];

fn check_interface(interface: &Value) {
    let missing: Vec<_> = MEMBERS
        .iter()
        .filter(|member| interface.get(**member).is_none())
        .collect();
    assert!(missing.is_empty(), "{missing:?}: {interface}");
    assert!(is_uuid(&interface["id"]), "{interface}");
    assert_eq!(
        (&interface["mtu"], &interface["relay"]),
        (&json!(1_500), &Value::Null)
    );
    let host = interface["tap_ip"].as_str().unwrap();
    assert!(host.parse::<Ipv4Addr>().is_ok(), "tap_ip is bare: {host}");
}

#[test]
fn create_answers_with_everything_that_a_vmm_needs() {
    let world = World::new();
    let agent = world.agent("");
    let custom = json!({
        "ip": "10.7.0.5/24", "ip6": "fec0::2/64", "tap_name": "vpc0", "autoconfig": false, "model": "e1000",
    });
    let spec =
        json!({ "name": "all", "network_interfaces": [custom, {}], "tags": ["a", { "b": 1 }] });
    let made = agent.create(&spec);
    assert!(is_uuid(&made["id"]), "{made}");
    let interfaces = &made["network_interfaces"];
    interfaces
        .as_array()
        .unwrap()
        .iter()
        .for_each(check_interface);
    // The flat members are the primary's; gateway and server come from the pool interface (I-16).
    let flat = json!({
        "name": "all", "status": "running", "private_ip": "10.7.0.5", "guest_ip": "10.7.0.5", "tap_device": "vpc0",
        "gateway": "172.16.0.1", "nameserver": "172.16.0.1", "guest_mac": interfaces[0]["mac"],
        "tap_ip": interfaces[0]["tap_ip"], "tags": ["a", { "b": 1 }],
    });
    for (member, value) in flat.as_object().unwrap() {
        assert_eq!(&made[member], value, "{member}: {made}");
    }
    let first = json!({ "name": "all-eth0", "ip": "10.7.0.5/24", "ip6": "fec0::2/64", "autoconfig": false });
    for (member, value) in first.as_object().unwrap() {
        assert_eq!(&interfaces[0][member], value, "{member}: {made}");
    }
    let pool_v6 = interfaces[1]["ip6"].as_str().unwrap();
    assert!(pool_v6.ends_with("::2/64"), "{pool_v6}");
    // The same is shown later, by name and by id.
    for key in ["all", made["id"].as_str().unwrap()] {
        let shown = agent.inspect(key);
        for member in keys(&made)
            .into_iter()
            .filter(|member| *member != "network_interfaces")
        {
            assert_eq!(shown[member], made[member], "{member}");
        }
        for member in MEMBERS {
            assert_eq!(
                shown["network_interfaces"][0][member], interfaces[0][member],
                "{member}"
            );
        }
    }
    let list = agent.api("GET", "/v1/instances", "").body;
    assert_eq!(list[0]["id"], made["id"]);
}

#[test]
fn an_interface_that_the_guest_does_not_configure_is_attached_and_filtered_all_the_same() {
    let world = World::new();
    let agent = world.agent("");
    let spec = json!({ "name": "by-hand", "network_interfaces": [{ "autoconfig": false }] });
    let guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    assert_eq!(guest.answer["network_interfaces"][0]["autoconfig"], false);
    let (nic, wire) = (guest.nic(), world.wire());
    let way = Way::new(&world, nic, &wire);
    way.check(flow(8_000));
    let stranger = nic.to(SILENT[0]).from([172, 16, 0, 6]);
    nic.tap
        .send_bytes(packet::udp(&stranger, (1, 53), b"spoofed"));
    way.check(flow(8_001));
    assert_eq!(
        agent.guest_drops("by-hand").get("spoofed_address"),
        Some(&1)
    );
}

#[test]
fn the_topology_of_an_instance_cannot_be_changed() {
    let world = World::new();
    let agent = world.agent("");
    reserve(&agent, json!({ "name": "fixed" }));
    let before = agent.inspect("fixed");
    let text = "Network interfaces cannot be changed after creation";
    let bodies = [
        json!({ "network_interfaces": [{}, {}] }),
        json!({ "gateway": "10.0.0.1" }),
        json!({}),
    ];
    for body in bodies.map(|body| body.to_string()) {
        for prefix in ["/v1/instances", "/machines"] {
            for method in ["PATCH", "PUT"] {
                let path = format!("{prefix}/fixed");
                let answer = agent.api(method, &path, &body);
                assert_eq!(
                    (answer.status, answer.message()),
                    (409, text),
                    "{method} {path} {body}"
                );
            }
        }
    }
    assert_eq!(agent.inspect("fixed"), before);
}

#[test]
fn a_template_has_no_network_configuration_and_several_interfaces_cannot_be_copied() {
    let world = World::new();
    let agent = world.agent("");
    let custom = json!({ "ip": "10.7.0.5/24", "tap_name": "vpc0" });
    reserve(
        &agent,
        json!({
            "name": "several", "network_interfaces": [{}, custom], "gateway": "10.7.0.9", "nameserver": "1.1.1.1",
            "image": "nginx:latest", "vcpu_count": 2, "tags": ["x"], "network_policy": "allow-all",
        }),
    );
    reserve(&agent, json!({ "name": "single" }));
    let ask =
        |name: &str, what: &str| agent.api("POST", &format!("/v1/instances/{name}/{what}"), "");
    let template = ask("several", "template");
    assert_eq!(template.status, 200, "{template:?}");
    for (member, value) in [
        ("image", json!("nginx:latest")),
        ("vcpu_count", json!(2)),
        ("tags", json!(["x"])),
    ] {
        assert_eq!(template.body[member], value, "{template:?}");
    }
    for dropped in [
        "network_interfaces",
        "gateway",
        "nameserver",
        "publish",
        "id",
        "status",
    ] {
        assert_eq!(template.body.get(dropped), None, "{template:?}");
    }
    for (what, done) in [("branch", "branched"), ("checkpoint", "checkpointed")] {
        let several = ask("several", what);
        let text = format!("Instances with more than one network interface cannot be {done}");
        assert!((400..410).contains(&several.status), "{several:?}");
        assert_eq!(several.message(), text);
        // A branch of one is a clone, which comes later.
        let single = ask("single", what);
        assert_eq!(single.status, 501, "{single:?}");
        assert_eq!(ask("nobody", what).status, 404);
    }
    assert_eq!(ask("nobody", "template").status, 404);
}
