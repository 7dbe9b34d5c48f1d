//! What people see: the command line, and the maps by their fields' names.

use std::fs;

use netagent_common::names::{ABI_VERSION, map};
use netagent_tests::guest::Guest;
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, World};

use crate::exchange::{FlowTo, Protocol, Way};

#[test]
fn the_command_line_creates_lists_shows_stops_and_removes() {
    let world = World::new();
    let agent = world.agent("");
    let parse = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let created = parse(agent.cli("create", &["--name", "hello", "--json"]));
    assert_eq!(
        (&created["name"], &created["status"]),
        (&"hello".into(), &"running".into())
    );
    for member in [
        "id",
        "private_ip",
        "gateway",
        "nameserver",
        "tap_device",
        "tap_ip",
        "guest_ip",
        "guest_mac",
    ] {
        assert!(created[member].is_string(), "{member}: {created}");
    }
    assert_eq!(created["network_interfaces"][0]["name"], "hello-eth0");
    assert!(agent.cli("ls", &[]).contains("hello"));
    assert!(agent.cli("ls", &["--json"]).contains("tap0"));
    let shown = parse(agent.cli("inspect", &["hello", "--json"]));
    assert_eq!(shown["id"], created["id"]);
    assert_eq!(shown["network_interfaces"][0]["attached"], false);
    assert!(agent.cli("inspect", &["hello"]).contains("172.16.0.2"));
    agent.cli("stop", &["hello"]);
    assert!(!world.host.links().contains(&"tap0".to_owned()));
    agent.cli("start", &["hello"]);
    assert!(world.host.links().contains(&"tap0".to_owned()));

    let spec = agent.directory().join("spec.json");
    fs::write(
        &spec,
        r#"{"name": "from-file", "network_interfaces": [{}, {}], "tags": ["x"]}"#,
    )
    .unwrap();
    let created = parse(agent.cli("create", &["-f", &spec.to_string_lossy(), "--json"]));
    assert_eq!(
        created["network_interfaces"].as_array().map(Vec::len),
        Some(2)
    );
    assert_eq!(created["tags"], serde_json::json!(["x"]));
    for name in ["hello", "from-file"] {
        agent.cli("rm", &[name]);
    }
    let refused = agent.try_cli("inspect", &["hello"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("hello"));
}

#[test]
fn drops_and_traffic_are_shown() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "counted", Header::Vnet);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    for port in 1..=3 {
        way.check(FlowTo {
            protocol: Protocol::Udp,
            remote: SILENT[0],
            ports: (7_000 + port, 53),
        });
    }
    let metadata = way.nic.to([169, 254, 169, 254]);
    way.nic
        .tap
        .send_bytes(netagent_tests::packet::udp(&metadata, (1, 80), b"metadata"));
    way.check(FlowTo {
        protocol: Protocol::Udp,
        remote: SILENT[0],
        ports: (7_001, 53),
    });
    let shown = agent.inspect("counted");
    let interface = &shown["network_interfaces"][0];
    assert_eq!(interface["drops"]["always_denied"], 1, "{shown}");
    assert_eq!(interface["traffic"]["from_vm_packets"], 4, "{shown}");
    // And the router advertisement that greets a guest, once it was seen.
    let arrived = interface["traffic"]["to_vm_packets"].as_u64();
    assert!(matches!(arrived, Some(4 | 5)), "{shown}");
    assert_eq!(shown["open_flows"], 3, "{shown}");
    assert!(agent.cli("inspect", &["counted"]).contains("always_denied"));
}

#[test]
fn bpftool_shows_the_maps_by_the_names_of_their_fields() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "dumped", Header::Vnet);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    for remote in SILENT {
        way.check(FlowTo {
            protocol: Protocol::Udp,
            remote,
            ports: (7_000, 53),
        });
    }
    way.nic.tap.send_bytes(vec![0; 60]);
    way.check(FlowTo {
        protocol: Protocol::Udp,
        remote: SILENT[0],
        ports: (7_001, 53),
    });
    let fields = [
        (map::STATE, "route_generation"),
        (map::INTERFACES, "guest_mac"),
        (map::ROUTES_V4, "next_hop"),
        (map::ROUTES_V6, "next_hop"),
        (map::FLOWS_V4, "last_seen_ns"),
        (map::FLOWS_V6, "remote_port"),
        (map::REVERSE_V4, "nat_port"),
        (map::REVERSE_V6, "guest_port"),
        (map::DROPS, "reason"),
        (map::COLLECTED, "removed"),
    ];
    let version = &format!("v{ABI_VERSION}");
    for (name, field) in fields {
        let path = agent.pins().path().join(version).join(name);
        let dump = world.host.shell(&format!(
            "bpftool --json map dump pinned {}",
            path.display()
        ));
        assert!(
            dump.contains(&format!("\"{field}\"")),
            "{name} shows no {field}: {}",
            &dump[..dump.len().min(400)]
        );
    }
}
