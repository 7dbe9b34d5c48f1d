//! Masquerade: what leaves, what comes back, and which port a flow gets.

use std::net::IpAddr;

use netagent_common::net::{GATEWAY_MAC, tcp_flag};
use netagent_tests::packet::{
    self, Ends, Packet, Segment, echo_reply, echo_request, hex, tcp, udp,
};
use netagent_tests::prog_run::verdict;
use netagent_tests::scene::{
    self, GUEST_MAC, GUEST_V4, GUEST_V6, REMOTE_V4, REMOTE_V6, Scene, back, to,
};

pub(crate) const REMOTES: [IpAddr; 4] = [
    IpAddr::V4(REMOTE_V4),
    IpAddr::V6(REMOTE_V6),
    // On the uplink's network: no next hop.
    IpAddr::V4(scene::ROUTER_V4),
    IpAddr::V6(scene::ROUTER_V6),
];

pub(crate) fn host(remote: IpAddr) -> IpAddr {
    if remote.is_ipv4() {
        scene::HOST_V4.into()
    } else {
        scene::HOST_V6.into()
    }
}

pub(crate) fn guest(remote: IpAddr) -> IpAddr {
    if remote.is_ipv4() {
        GUEST_V4.into()
    } else {
        GUEST_V6.into()
    }
}

pub(crate) fn tcp_segment(
    ends: &Ends,
    (src_port, dst_port): (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let segment = Segment {
        src_port,
        dst_port,
        sequence: 7,
        acknowledgement: 9,
        flags: tcp_flag::ACK,
    };
    tcp(ends, segment, payload)
}

fn request(ends: &Ends, (id, _): (u16, u16), payload: &[u8]) -> Vec<u8> {
    echo_request(ends, (id, 3), payload)
}

fn reply(ends: &Ends, (_, id): (u16, u16), payload: &[u8]) -> Vec<u8> {
    echo_reply(ends, (id, 3), payload)
}

pub(crate) type Build = fn(&Ends, (u16, u16), &[u8]) -> Vec<u8>;

/// Protocols: what the guest sends, and what comes back.
pub(crate) const PROTOCOLS: [(Build, Build); 3] =
    [(udp, udp), (tcp_segment, tcp_segment), (request, reply)];

/// The guest sends, and the far end answers: both packets are checked byte for byte. Returns the port under
/// which the world knows the flow.
pub(crate) fn check_both_ways(
    scene: &mut Scene,
    remote: IpAddr,
    (sent, answered): (Build, Build),
    port: u16,
) -> u16 {
    // The address of the far end and an odd length, so that the checksum covers a padded byte.
    let payload = b"seventeen bytes..";
    let out = scene.from_vm(&sent(&to(remote), (port, 53), payload));
    assert_eq!(
        out.verdict,
        verdict::REDIRECT,
        "{remote}: {:?}",
        scene.datapath.drops()
    );
    let nat_port = Packet::parse(&out.bytes).unwrap().ports.0;
    let ends = to(remote);
    let expected = sent(
        &Ends {
            src: host(remote),
            ttl: ends.ttl - 1,
            ..ends
        },
        (nat_port, 53),
        payload,
    );
    // The hardware addresses are written by the neighbour layer, after the program.
    assert_eq!(hex(&out.bytes[12..]), hex(&expected[12..]), "{remote}");

    let answer = answered(&back(remote), (53, nat_port), payload);
    let into = scene.from_uplink(&answer);
    assert_eq!(
        into.verdict,
        verdict::REDIRECT,
        "{remote}: {:?}",
        scene.datapath.drops()
    );
    let ends = back(remote).to(guest(remote));
    let ends = Ends {
        src_mac: GATEWAY_MAC,
        dst_mac: GUEST_MAC,
        ttl: ends.ttl - 1,
        ..ends
    };
    assert_eq!(
        hex(&into.bytes),
        hex(&answered(&ends, (53, port), payload)),
        "{remote}"
    );
    nat_port
}

#[test]
fn a_flow_leaves_with_the_uplinks_address_and_its_replies_reach_the_guest() {
    let mut scene = Scene::usual();
    for remote in REMOTES {
        for protocol in PROTOCOLS {
            let first = check_both_ways(&mut scene, remote, protocol, 4_000);
            assert!((16_384..30_000).contains(&first), "{first}");
            assert_eq!(
                check_both_ways(&mut scene, remote, protocol, 4_000),
                first,
                "a flow keeps its port"
            );
        }
    }
    assert!(
        scene.datapath.drops().is_empty(),
        "{:?}",
        scene.datapath.drops()
    );
}

#[test]
fn a_port_in_the_range_is_kept() {
    let mut scene = Scene::usual();
    for remote in REMOTES {
        for protocol in PROTOCOLS {
            assert_eq!(
                check_both_ways(&mut scene, remote, protocol, 20_000),
                20_000
            );
        }
    }
}

#[test]
fn no_two_flows_to_one_remote_share_a_port() {
    let mut scene = Scene::usual();
    let mut ports = std::collections::BTreeSet::new();
    for port in 1_001..=1_500 {
        let nat_port = check_both_ways(&mut scene, REMOTES[0], PROTOCOLS[0], port);
        assert!(ports.insert(nat_port), "port {nat_port} is given twice");
    }
}

#[test]
fn what_comes_back_to_no_flow_is_left_to_the_host() {
    let mut scene = Scene::usual();
    let nat_port = check_both_ways(&mut scene, REMOTES[0], PROTOCOLS[0], 4_000);
    let stranger = back(REMOTE_V4).from(IpAddr::from([203, 0, 113, 10]));
    let packets = [
        udp(&stranger, (53, nat_port), b"another address"),
        udp(&back(REMOTE_V4), (54, nat_port), b"another port"),
        udp(&back(REMOTE_V4), (53, nat_port ^ 1), b"to another port"),
        tcp_segment(&back(REMOTE_V4), (53, nat_port), b"another protocol"),
        udp(&back(REMOTE_V4), (53, 40_000), b"a socket of the host"),
        echo_request(&back(REMOTE_V4), (nat_port, 1), b"a ping of the host"),
        packet::ethernet([0xff; 6], [2; 6], 0x0806, &[0; 28]),
        packet::ethernet([0xff; 6], [2; 6], 0x88cc, &[0; 40]),
    ];
    for bytes in packets {
        let outcome = scene.from_uplink(&bytes);
        assert_eq!(outcome.verdict, verdict::NEXT, "{}", hex(&bytes));
        assert_eq!(outcome.bytes, bytes, "it is not changed");
    }
}

#[test]
fn a_datagram_without_a_checksum_keeps_none() {
    let mut scene = Scene::usual();
    let mut bytes = udp(&to(REMOTE_V4), (4_000, 53), b"none");
    bytes[40..42].fill(0);
    let out = scene.from_vm(&bytes);
    assert_eq!(out.verdict, verdict::REDIRECT);
    assert_eq!(
        out.bytes[40..42],
        [0, 0],
        "RFC 768: zero means that there is none"
    );
}

#[test]
fn an_instance_started_anew_in_the_slot_inherits_no_flow() {
    let mut scene = Scene::usual();
    let nat_port = check_both_ways(&mut scene, REMOTES[0], PROTOCOLS[0], 4_000);
    let mut record = scene::record();
    record.generation += 1;
    scene.datapath.set_interface(&record);
    let answer = udp(&back(REMOTE_V4), (53, nat_port), b"for the one before");
    assert_ne!(scene.from_uplink(&answer).verdict, verdict::REDIRECT);
}

#[test]
fn a_foreign_mark_does_not_open_the_way_to_a_guest() {
    use netagent_tests::prog_run::{Context, MARK};
    let mut scene = Scene::usual();
    let bytes = udp(&to(REMOTE_V4), (4_000, 53), b"marked by the guest");
    let marked = Context {
        mark: MARK,
        ..scene::FROM_VM
    };
    let outcome = scene
        .datapath
        .run(netagent_common::names::FROM_VM, &bytes, marked);
    assert_eq!(
        (outcome.verdict, outcome.mark),
        (verdict::REDIRECT, 0),
        "a packet that leaves carries no mark"
    );
    let stray = udp(&back(REMOTE_V4), (53, 40_000), b"marked by another program");
    let marked = Context {
        mark: MARK,
        ..scene::FROM_UPLINK
    };
    let outcome = scene
        .datapath
        .run(netagent_common::names::FROM_UPLINK, &stray, marked);
    assert_eq!(
        (outcome.verdict, outcome.mark),
        (verdict::NEXT, 0),
        "a foreign equal mark is cleared"
    );
}

#[test]
fn a_packet_with_our_mark_reaches_the_guest_and_loses_it() {
    use netagent_tests::prog_run::{Context, MARK};
    let mut scene = Scene::usual();
    let ends = Ends {
        src_mac: GATEWAY_MAC,
        dst_mac: GUEST_MAC,
        ..back(REMOTE_V4).to(IpAddr::V4(GUEST_V4))
    };
    let bytes = udp(&ends, (53, 4_000), b"a reply");
    let context = Context {
        mark: MARK,
        ingress_ifindex: scene::UPLINK,
        ..scene::FROM_HOST
    };
    let outcome = scene
        .datapath
        .run(netagent_common::names::TO_VM, &bytes, context);
    assert_ne!(outcome.verdict, verdict::DROP);
    assert_eq!(outcome.mark, 0);
}
