//! What no policy opens (P-5), what the configuration closes besides, and what it opens.

use std::net::IpAddr;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::frame::Frame;
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::netns::{NetNs, join_by_veth};
use netagent_tests::packet::{Packet, hex};
use netagent_tests::raw::Raw;
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, World};

use super::site::{DENY_ALL, drops, put};
use crate::exchange::{FlowTo, Protocol, Way};

/// What a packet that must not leave carries.
const LEAK: &[u8] = b"this must stay inside";

const EVERYTHING: &str = r#"{"allowed_cidrs": ["0.0.0.0/0", "::/0"]}"#;

/// Address and reason.
const NEVER: &[(&str, &str)] = &[
    ("169.254.169.254", "always_denied"),
    ("169.254.1.1", "always_denied"),
    ("100.100.100.200", "always_denied"),
    ("fd00:ec2::254", "always_denied"),
    ("fe80::5", "always_denied"),
    ("127.0.0.1", "always_denied"),
    ("::1", "always_denied"),
    ("224.0.0.5", "always_denied"),
    ("ff0e::1", "always_denied"),
    ("255.255.255.255", "always_denied"),
    ("198.51.100.255", "always_denied"),
    ("::ffff:203.0.113.1", "always_denied"),
    ("::ffff:169.254.169.254", "always_denied"),
    ("198.51.100.2", "host_address"),
    ("2001:db8:100::2", "host_address"),
    ("10.88.0.1", "host_address"),
    ("172.16.0.6", "other_instance"),
    ("172.16.0.5", "other_instance"),
    ("10.88.0.9", "not_uplink"),
    ("2001:db8:88::9", "not_uplink"),
];

/// A network of containers, which is no uplink.
fn add_containers(host: &NetNs) -> NetNs {
    let container = NetNs::new();
    join_by_veth((host, "docker0"), (&container, "eth0"));
    host.ip("address add 10.88.0.1/16 dev docker0");
    host.ip("address add 2001:db8:88::1/64 dev docker0 nodad");
    container
}

/// The guest sends over UDP and TCP and as an echo, and each packet is dropped for this reason.
fn check_dropped(agent: &Agent, (name, nic): (&str, &Nic), (address, reason): (&str, &str)) {
    let before = drops(agent, name, reason);
    let address: IpAddr = address.parse().unwrap();
    for protocol in Protocol::ALL {
        let question = protocol.question(&nic.to(address), (9_000, 9), LEAK);
        nic.tap.send_bytes(question);
    }
    wait_until(&format!("{address} is counted as {reason}"), SOON, || {
        drops(agent, name, reason) == before + 3
    });
}

/// Nothing of it is on the wire: a flow after it is, and all before was seen by then.
fn assert_no_leak(way: &Way<'_>, wire: &Raw) {
    let flow = FlowTo {
        protocol: Protocol::Udp,
        remote: SILENT[0],
        ports: (8_000, 53),
    };
    way.nic.tap.send_bytes(flow.protocol.question(
        &way.nic.to(flow.remote),
        flow.ports,
        b"the last",
    ));
    wait_until("the last frame", SOON, || {
        std::iter::from_fn(|| wire.receive_now()).any(|received| {
            let bytes = received.frame.completed();
            let is_leak = bytes.windows(LEAK.len()).any(|window| window == LEAK);
            assert!(!is_leak, "{}", hex(&bytes));
            Packet::parse(&bytes).is_some_and(|packet| packet.payload == b"the last")
        })
    });
}

#[test]
fn p5_no_policy_opens_what_is_always_denied_and_neither_does_audit() {
    let world = World::new();
    let _container = add_containers(&world.host);
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "a", Header::Vnet);
    let other = Guest::create(&agent, &world.host, "b", Header::Vnet);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    let other_v6 = other.nic().address(false).to_string();
    let never = NEVER.iter().copied();
    let never: Vec<_> = never.chain([(&*other_v6, "other_instance")]).collect();
    for policy in [
        EVERYTHING,
        r#"{"denied_cidrs": []}"#,
        r#"{"network_policy": "allow-all", "audit": true}"#,
        r#"{"allowed_cidrs": ["127.0.0.0/8", "169.254.169.254/32", "198.51.100.2/32", "203.0.113.200/32"], "audit": true}"#,
    ] {
        put(&agent, "a", policy);
        for case in &never {
            check_dropped(&agent, ("a", guest.nic()), *case);
        }
        assert_no_leak(&way, &wire);
    }
    let audited_closed = r#"{"network_policy": "deny-all", "audit": true}"#;
    put(&agent, "a", audited_closed);
    for case in &never {
        check_dropped(&agent, ("a", guest.nic()), *case);
    }
    assert_no_leak(&way, &wire);
    let spoofed = guest.nic().to(SILENT[0]).from(SILENT[2]);
    guest
        .nic()
        .tap
        .send_bytes(Protocol::Udp.question(&spoofed, (9_000, 9), LEAK));
    wait_until("a forged source is dropped", SOON, || {
        drops(&agent, "a", "spoofed_address") == 1
    });
    assert_no_leak(&way, &wire);
    let reached: Vec<_> = std::iter::from_fn(|| other.nic().tap.receive_now())
        .filter(|frame| frame.bytes.windows(LEAK.len()).any(|window| window == LEAK))
        .collect();
    assert_eq!(reached, []);
}

/// Private addresses that lie behind the router.
const PRIVATE: [&str; 6] = [
    "10.1.2.3",
    "192.168.7.7",
    "172.31.0.9",
    "100.64.0.1",
    "fd12::1",
    "fec0::1:1",
];

#[test]
fn p5_private_networks_are_ordinary_addresses_unless_the_configuration_closes_them() {
    for (configuration, is_closed) in [("", false), ("[policy]\ndeny_private = true\n", true)] {
        let world = World::new();
        let agent = world.agent(configuration);
        let guest = Guest::create(&agent, &world.host, "a", Header::Vnet);
        let wire = world.wire();
        let way = Way::new(&world, guest.nic(), &wire);
        for policy in [
            "{}",
            EVERYTHING,
            r#"{"allowed_cidrs": ["10.1.2.3/32", "0.0.0.0/1", "128.0.0.0/1", "::/0"]}"#,
        ] {
            put(&agent, "a", policy);
            for address in PRIVATE {
                if is_closed {
                    check_dropped(&agent, ("a", guest.nic()), (address, "always_denied"));
                } else {
                    let flow = FlowTo {
                        protocol: Protocol::Udp,
                        remote: address.parse().unwrap(),
                        ports: (8_000, 53),
                    };
                    way.send(flow, Frame::plain, LEAK);
                }
            }
        }
        put(&agent, "a", DENY_ALL);
        check_dropped(&agent, ("a", guest.nic()), ("203.0.113.200", "deny_all"));
    }
}

#[test]
fn p5_metadata_that_the_configuration_opens_is_judged_by_the_lists_as_any_other_address() {
    let world = World::new();
    let agent = world.agent("[policy]\nopen = [\"169.254.169.254\", \"fd00:ec2::254\"]\n");
    let guest = Guest::create(&agent, &world.host, "a", Header::Vnet);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    for address in ["169.254.169.254", "fd00:ec2::254"] {
        let flow = FlowTo {
            protocol: Protocol::Tcp,
            remote: address.parse().unwrap(),
            ports: (8_000, 80),
        };
        put(&agent, "a", "{}");
        way.send(flow, Frame::plain, b"credentials");
        put(&agent, "a", r#"{"allowed_cidrs": ["203.0.113.0/24"]}"#);
        check_dropped(&agent, ("a", guest.nic()), (address, "not_allowed"));
        put(
            &agent,
            "a",
            r#"{"denied_cidrs": ["169.254.0.0/16", "fd00::/8"]}"#,
        );
        check_dropped(&agent, ("a", guest.nic()), (address, "denied_cidr"));
    }
    for address in ["169.254.169.253", "100.100.100.200"] {
        check_dropped(&agent, ("a", guest.nic()), (address, "always_denied"));
    }
}
