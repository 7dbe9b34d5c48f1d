//! What a guest is told of what its policy refuses, byte for byte, and what comes in pieces.

use std::net::IpAddr;

use netagent_common::net::{GATEWAY_MAC, protocol, tcp_flag};
use netagent_tests::agent::Agent;
use netagent_tests::deadline::{Deadline, SOON, wait_until};
use netagent_tests::fragment::{fragments, reassembled};
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::packet::{self, Ends, Packet, Segment, hex};
use netagent_tests::raw::Raw;
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, World};
use serde_json::json;

use super::site::{self, ALLOW_ALL, DENY_ALL, drops, put, wait_for_drops};
use crate::exchange::{FlowTo, Protocol};

const REFUSALS: [(&str, &str); 3] = [
    (DENY_ALL, "deny_all"),
    (r#"{"allowed_cidrs": []}"#, "not_allowed"),
    (r#"{"denied_cidrs": ["0.0.0.0/0", "::/0"]}"#, "denied_cidr"),
];

/// The next packet for the guest from this address that is none of the host's own discovery.
fn told(nic: &Nic, wanted: impl Fn(&Packet) -> bool) -> (Packet, Vec<u8>) {
    nic.tap.receive_where(Deadline::after(SOON), |frame| {
        let bytes = frame.completed();
        let packet = Packet::parse(&bytes).filter(&wanted)?;
        packet::assert_checksums(&bytes);
        Some((packet, bytes))
    })
}

/// A connection attempt is reset by whom it was for.
fn check_reset(nic: &Nic, remote: IpAddr) {
    let ends = nic.to(remote);
    let attempt = Segment {
        src_port: 40_000,
        dst_port: 443,
        sequence: 1_000,
        flags: tcp_flag::SYN,
        ..Segment::default()
    };
    nic.tap.send_bytes(packet::tcp(&ends, attempt, b""));
    let (reset, bytes) = told(nic, |packet| packet.protocol == protocol::TCP);
    assert_eq!((reset.ends.src, reset.ends.dst), (ends.dst, ends.src));
    assert_eq!(
        (reset.ends.src_mac, reset.ends.dst_mac),
        (GATEWAY_MAC, nic.mac)
    );
    assert_eq!(reset.ports, (443, 40_000));
    assert_eq!(reset.kind, tcp_flag::RST | tcp_flag::ACK);
    let start = packet::transport(&bytes).unwrap().start;
    let word = |at: usize| u32::from_be_bytes(bytes[start + at..][..4].try_into().unwrap());
    assert_eq!((word(4), word(8)), (0, 1_001), "it answers the SYN");
}

/// An ICMP error says that it is prohibited, and quotes what was sent.
fn check_prohibited(nic: &Nic, remote: IpAddr, protocol: Protocol) {
    let ends = nic.to(remote);
    let sent = protocol.question(&ends, (40_001, 53), b"what is it");
    nic.tap.send_bytes(sent.clone());
    let (kind, code, number) = if remote.is_ipv4() {
        (3, 13, protocol::ICMP)
    } else {
        (1, 1, protocol::ICMPV6)
    };
    let is_error = |packet: &Packet| packet.protocol == number && packet.kind == kind;
    let (error, bytes) = told(nic, is_error);
    let transport = packet::transport(&bytes).unwrap();
    assert_eq!(bytes[transport.start + 1], code, "{}", hex(&bytes));
    assert_eq!(error.ends.dst, ends.src);
    assert_eq!(hex(&error.payload[..24]), hex(&sent[14..38]), "the quote");
}

#[test]
fn what_a_policy_refuses_is_reset_or_reported_and_never_on_the_wire() {
    let world = World::new();
    let agent = world.agent("");
    let spec = site::told(json!({ "name": "a" }));
    let guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    let wire = world.wire();
    for (policy, reason) in REFUSALS {
        put(&agent, "a", policy);
        for remote in SILENT {
            let before = drops(&agent, "a", reason);
            check_reset(guest.nic(), remote);
            check_prohibited(guest.nic(), remote, Protocol::Udp);
            check_prohibited(guest.nic(), remote, Protocol::Echo);
            wait_for_drops(&agent, "a", (reason, before, 3));
        }
    }
    assert_silent(&wire, &agent, guest.nic());
}

/// Nothing reached the wire before a packet that may.
fn assert_silent(wire: &Raw, agent: &Agent, nic: &Nic) {
    put(agent, "a", ALLOW_ALL);
    nic.tap
        .send_bytes(Protocol::Udp.question(&nic.to(SILENT[0]), (9_999, 99), b"the last"));
    wait_until("the last frame", SOON, || {
        std::iter::from_fn(|| wire.receive_now()).any(|received| {
            let bytes = received.frame.completed();
            let Some(packet) = Packet::parse(&bytes) else {
                return false;
            };
            let is_last = packet.payload == b"the last";
            assert!(
                is_last
                    || !SILENT.contains(&packet.ends.dst)
                    || packet.protocol == protocol::ICMPV6,
                "{}",
                hex(&bytes)
            );
            is_last
        })
    });
}

/// Fragments of a packet that arrive, as the wire has them.
fn arriving(wire: &Raw, remote: IpAddr, count: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while found.len() < count {
        found.push(wire.receive_where(Deadline::after(SOON), |received| {
            let bytes = received.frame.completed();
            is_to(&bytes, remote).then_some(bytes)
        }));
    }
    found
}

fn is_to(bytes: &[u8], remote: IpAddr) -> bool {
    match remote {
        IpAddr::V4(remote) => bytes[12..14] == [8, 0] && bytes[30..34] == remote.octets(),
        IpAddr::V6(remote) => {
            bytes[12..14] == [0x86, 0xdd]
                && bytes[38..54] == remote.octets()
                && bytes[20] != protocol::ICMPV6
        }
    }
}

#[test]
fn a_packet_in_pieces_is_judged_by_its_first_one_and_the_later_ones_follow_it() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "a", Header::Vnet);
    let (nic, wire) = (guest.nic(), world.wire());
    let mut id = 100;
    for (first, second) in [(SILENT[0], SILENT[2]), (SILENT[1], SILENT[3])] {
        let allowed = if first.is_ipv4() {
            "203.0.113.0/24"
        } else {
            "2001:db8:200::/64"
        };
        put(
            &agent,
            "a",
            &json!({ "allowed_cidrs": [allowed] }).to_string(),
        );
        for (remote, passes) in [(first, true), (second, false), (first, true)] {
            id += 1;
            let whole = packet::udp(&nic.to(remote), (9_000, 53), &[7; 2_000]);
            let pieces = fragments(&whole, 512, id);
            let before = agent.guest_drops("a").values().sum::<u64>();
            for piece in &pieces {
                nic.tap.send_bytes(piece.clone());
            }
            if passes {
                let arrived = reassembled(&arriving(&wire, remote, pieces.len()));
                packet::assert_checksums(&arrived);
                assert_eq!(Packet::parse(&arrived).unwrap().payload, [7; 2_000]);
            } else {
                wait_until("every piece is dropped", SOON, || {
                    agent.guest_drops("a").values().sum::<u64>() == before + pieces.len() as u64
                });
                assert_eq!(
                    drops(&agent, "a", "not_allowed"),
                    1 + u64::from(first.is_ipv6())
                );
            }
        }
        // A flow after them: nothing else is before it on the wire.
        let flow = FlowTo {
            protocol: Protocol::Udp,
            remote: first,
            ports: (8_000, 53),
        };
        nic.tap.send_bytes(
            flow.protocol
                .question(&nic.to(first), flow.ports, b"the last"),
        );
        wire.receive_where(Deadline::after(SOON), |received| {
            let bytes = received.frame.completed();
            assert!(!is_to(&bytes, second), "{}", hex(&bytes));
            is_to(&bytes, first).then_some(())
        });
    }
}

#[test]
fn the_later_pieces_of_a_packet_stay_where_the_policy_came_between() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "a", Header::Vnet);
    let (nic, wire) = (guest.nic(), world.wire());
    for (id, remote) in [(7, SILENT[0]), (8, SILENT[1])] {
        put(&agent, "a", ALLOW_ALL);
        let whole = packet::udp(&nic.to(remote), (9_000, 53), &[7; 2_000]);
        let pieces = fragments(&whole, 512, id);
        nic.tap.send_bytes(pieces[0].clone());
        arriving(&wire, remote, 1);
        put(
            &agent,
            "a",
            r#"{"denied_cidrs": ["203.0.113.200/32", "2001:db8:200::c8/128"]}"#,
        );
        for piece in &pieces[1..] {
            nic.tap.send_bytes(piece.clone());
        }
        let last = if remote.is_ipv4() {
            SILENT[2]
        } else {
            SILENT[3]
        };
        nic.tap
            .send_bytes(packet::udp(&nic.to(last), (9_001, 53), b"the last"));
        wire.receive_where(Deadline::after(SOON), |received| {
            let bytes = received.frame.completed();
            assert!(
                !is_to(&bytes, remote),
                "a later piece left: {}",
                hex(&bytes)
            );
            is_to(&bytes, last).then_some(())
        });
    }
}

#[test]
fn an_ipv4_mapped_packet_is_dropped_whatever_the_lists_say_of_either_form() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "a", Header::Vnet);
    let (nic, wire) = (guest.nic(), world.wire());
    put(&agent, "a", r#"{"allowed_cidrs": ["0.0.0.0/0", "::/0"]}"#);
    let mapped = |tail: &str| -> IpAddr { tail.parse().unwrap() };
    let ends = Ends {
        dst: mapped("::ffff:203.0.113.200"),
        ..nic.to(SILENT[1])
    };
    nic.tap
        .send_bytes(packet::udp(&ends, (9_000, 53), b"mapped"));
    wait_for_drops(&agent, "a", ("always_denied", 0, 1));
    let from = ends.to(SILENT[1]).from(mapped("::ffff:172.16.0.2"));
    nic.tap
        .send_bytes(packet::udp(&from, (9_000, 53), b"mapped"));
    wait_for_drops(&agent, "a", ("spoofed_address", 0, 1));
    assert_silent(&wire, &agent, nic);
}
