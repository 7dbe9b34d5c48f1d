//! ICMP errors about packets of flows, byte for byte: what they quote is what its sender sent.

use std::net::IpAddr;

use netagent_common::flow::{Flow, FlowKey};
use netagent_common::names::map;
use netagent_common::net::GATEWAY_MAC;
use netagent_tests::fragment::fragment;
use netagent_tests::packet::{self, Ends, Packet, hex};
use netagent_tests::prog_run::verdict;
use netagent_tests::scene::{self, GUEST_MAC, Scene, back, to};

use crate::frames::changed;
use crate::nat::{self, Build, PROTOCOLS, REMOTES};

/// Types and codes that are passed on, and the four bytes behind the checksum.
pub(crate) fn reports(is_v4: bool) -> Vec<((u8, u8), [u8; 4])> {
    let codes = |kind: u8, codes: std::ops::RangeInclusive<u8>| codes.map(move |code| (kind, code));
    let all: Vec<(u8, u8)> = if is_v4 {
        let unreachable = codes(3, 0..=15);
        unreachable
            .chain(codes(11, 0..=1))
            .chain(codes(12, 0..=2))
            .collect()
    } else {
        let unreachable = codes(1, 0..=7).chain(codes(2, 0..=0));
        unreachable
            .chain(codes(3, 0..=1))
            .chain(codes(4, 0..=2))
            .collect()
    };
    let with_rest = |report| {
        (
            report,
            if matches!(report, (3, 4) | (2, 0)) {
                [0, 0, 5, 20]
            } else {
                [0; 4]
            },
        )
    };
    all.into_iter().map(with_rest).collect()
}

/// An error that quotes so many bytes of a frame's packet, or all of it.
pub(crate) fn error(
    ends: &Ends,
    (report, rest): ((u8, u8), [u8; 4]),
    (quoted, length): (&[u8], usize),
) -> Vec<u8> {
    let length = length.min(quoted.len() - 14);
    packet::icmp(ends, report, &[&rest, &quoted[14..14 + length]].concat())
}

/// Someone on the way, who is not the far end.
pub(crate) fn router(remote: IpAddr) -> IpAddr {
    if remote.is_ipv4() {
        scene::ROUTER_V4.into()
    } else {
        scene::ROUTER_V6.into()
    }
}

/// The same packet as seen by whoever lowered its hop limit.
pub(crate) fn late(ends: Ends) -> Ends {
    Ends {
        ttl: ends.ttl - 1,
        ..ends
    }
}

pub(crate) const PAYLOAD: &[u8] = b"seventeen bytes..";

/// Lengths of what is quoted: eight bytes of the transport header, to the checksum of TCP, without and with it.
fn lengths(remote: IpAddr) -> [usize; 5] {
    let header = if remote.is_ipv4() { 20 } else { 40 };
    [8, 16, 18, 20, 1_000].map(|length| header + length)
}

/// A flow of the guest: what left, as the world got it.
pub(crate) fn opened(
    scene: &mut Scene,
    remote: IpAddr,
    (sent, _): (Build, Build),
    port: u16,
) -> Vec<u8> {
    let out = scene.from_vm(&sent(&to(remote), (port, 53), PAYLOAD));
    assert_eq!(
        out.verdict,
        verdict::REDIRECT,
        "{:?}",
        scene.datapath.drops()
    );
    out.bytes
}

/// Ends of what the guest gets.
pub(crate) fn delivered(src: IpAddr, remote: IpAddr) -> Ends {
    let ends = late(back(src).to(nat::guest(remote)));
    Ends {
        src_mac: GATEWAY_MAC,
        dst_mac: GUEST_MAC,
        ..ends
    }
}

#[test]
fn an_error_of_the_world_reaches_the_guest_and_quotes_what_it_sent() {
    let mut scene = Scene::usual();
    for remote in REMOTES {
        for protocol in PROTOCOLS {
            let left = opened(&mut scene, remote, protocol, 4_000);
            let sent = protocol.0(&late(to(remote)), (4_000, 53), PAYLOAD);
            for report in reports(remote.is_ipv4()) {
                for length in lengths(remote) {
                    for src in [router(remote), remote] {
                        let outcome =
                            scene.from_uplink(&error(&back(src), report, (&left, length)));
                        let drops = scene.datapath.drops();
                        assert_eq!(
                            outcome.verdict,
                            verdict::REDIRECT,
                            "{report:?} {length} {drops:?}"
                        );
                        let expected = error(&delivered(src, remote), report, (&sent, length));
                        assert_eq!(hex(&outcome.bytes), hex(&expected), "{report:?} {length}");
                    }
                }
            }
        }
    }
    assert!(scene.datapath.drops().is_empty());
}

#[test]
fn an_error_of_the_guest_reaches_the_world_and_quotes_what_it_sent() {
    let mut scene = Scene::usual();
    for remote in REMOTES {
        for protocol in PROTOCOLS {
            let left = opened(&mut scene, remote, protocol, 4_000);
            let nat_port = Packet::parse(&left).unwrap().ports.0;
            let answer = |ends: &Ends| protocol.1(ends, (53, nat_port), PAYLOAD);
            let arrived = scene.from_uplink(&answer(&back(remote)));
            assert_eq!(arrived.verdict, verdict::REDIRECT);
            for report in reports(remote.is_ipv4()) {
                for length in lengths(remote) {
                    let outcome =
                        scene.from_vm(&error(&to(remote), report, (&arrived.bytes, length)));
                    let drops = scene.datapath.drops();
                    assert_eq!(
                        outcome.verdict,
                        verdict::REDIRECT,
                        "{report:?} {length} {drops:?}"
                    );
                    let ends = late(to(remote)).from(nat::host(remote));
                    let answered = answer(&late(back(remote)));
                    let expected = error(&ends, report, (&answered, length));
                    assert_eq!(
                        hex(&outcome.bytes[12..]),
                        hex(&expected[12..]),
                        "{report:?} {length}"
                    );
                }
            }
        }
    }
    assert!(scene.datapath.drops().is_empty());
}

#[test]
fn a_datagram_without_a_checksum_is_quoted_without_one() {
    let mut scene = Scene::usual();
    let sent = changed(
        packet::udp(&to(REMOTES[0]), (4_000, 53), PAYLOAD),
        40,
        &[0, 0],
    );
    let left = scene.from_vm(&sent).bytes;
    let report = ((3, 3), [0; 4]);
    let outcome = scene.from_uplink(&error(&back(REMOTES[0]), report, (&left, 28)));
    let seen = changed(
        packet::udp(&late(to(REMOTES[0])), (4_000, 53), PAYLOAD),
        40,
        &[0, 0],
    );
    let expected = error(&delivered(REMOTES[0], REMOTES[0]), report, (&seen, 28));
    assert_eq!(hex(&outcome.bytes), hex(&expected));
}

/// Every flow as it stands.
fn flows(scene: &mut Scene) -> String {
    let v4 = scene
        .datapath
        .entries::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(map::FLOWS_V4);
    let v6 = scene
        .datapath
        .entries::<FlowKey<[u8; 16]>, Flow<[u8; 16]>>(map::FLOWS_V6);
    format!("{v4:?} {v6:?}")
}

#[test]
fn an_error_neither_refreshes_nor_changes_nor_opens_a_flow() {
    let mut scene = Scene::usual();
    for remote in REMOTES {
        for protocol in PROTOCOLS {
            let left = opened(&mut scene, remote, protocol, 4_000);
            let nat_port = Packet::parse(&left).unwrap().ports.0;
            let answer = protocol.1(&back(remote), (53, nat_port), PAYLOAD);
            let arrived = scene.from_uplink(&answer).bytes;
            scene.age_flows(4_000);
            let before = flows(&mut scene);
            let report = reports(remote.is_ipv4())[0];
            scene.from_uplink(&error(&back(remote), report, (&left, 1_000)));
            scene.from_vm(&error(&to(remote), report, (&arrived, 1_000)));
            // About a packet that nobody sent.
            let stranger = protocol.0(&to(remote), (4_001, 54), PAYLOAD).to_vec();
            scene.from_vm(&error(&to(remote), report, (&stranger, 1_000)));
            assert_eq!(flows(&mut scene), before);
        }
    }
}

#[test]
fn a_first_fragment_is_quoted_as_it_was_sent() {
    let mut scene = Scene::usual();
    for remote in [REMOTES[0], REMOTES[1]] {
        let is_v4 = remote.is_ipv4();
        let first = |ends: &Ends, ports| {
            let whole = packet::udp(ends, ports, &[7; 2_000]);
            fragment(&whole, (0, 1_000), 99)
        };
        let left = scene.from_vm(&first(&to(remote), (4_000, 53))).bytes;
        let report = (if is_v4 { (3, 4) } else { (2, 0) }, [0, 0, 5, 20]);
        for length in lengths(remote).map(|length| if is_v4 { length } else { length + 8 }) {
            let outcome = scene.from_uplink(&error(&back(router(remote)), report, (&left, length)));
            assert_eq!(
                outcome.verdict,
                verdict::REDIRECT,
                "{:?}",
                scene.datapath.drops()
            );
            let seen = first(&late(to(remote)), (4_000, 53));
            let expected = error(&delivered(router(remote), remote), report, (&seen, length));
            assert_eq!(hex(&outcome.bytes), hex(&expected), "{length}");
        }
        // Not all of the ports.
        let short = if is_v4 { 27 } else { 55 };
        let bytes = error(&back(router(remote)), report, (&left, short));
        assert_eq!(scene.from_uplink(&bytes).verdict, verdict::NEXT);
    }
}
