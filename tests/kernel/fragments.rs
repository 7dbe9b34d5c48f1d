//! Fragments: each packet that passes whole passes in pieces too, byte for byte, and nothing else does.

use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::net::GATEWAY_MAC;
use netagent_tests::fragment::{fragments, piece, reassembled};
use netagent_tests::packet::{self, Ends, Packet, hex};
use netagent_tests::prog_run::{Outcome, verdict};
use netagent_tests::scene::{GUEST_MAC, REMOTE_V4, REMOTE_V6, SLOT, Scene, back, to};

use crate::nat::{self, Build, PROTOCOLS};

pub(crate) const FAR: [IpAddr; 2] = [IpAddr::V4(REMOTE_V4), IpAddr::V6(REMOTE_V6)];

fn late(ends: Ends) -> Ends {
    Ends {
        ttl: ends.ttl - 1,
        ..ends
    }
}

pub(crate) fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

/// Sends fragments one by one; each must pass.
pub(crate) fn pass(
    scene: &mut Scene,
    run: fn(&mut Scene, &[u8]) -> Outcome,
    sent: &[Vec<u8>],
) -> Vec<Vec<u8>> {
    let each = sent.iter().enumerate().map(|(index, bytes)| {
        let outcome = run(scene, bytes);
        assert_eq!(
            outcome.verdict,
            verdict::REDIRECT,
            "fragment {index}: {:?}",
            scene.datapath.drops()
        );
        outcome.bytes
    });
    each.collect()
}

pub(crate) fn from_vm(scene: &mut Scene, bytes: &[u8]) -> Outcome {
    scene.from_vm(bytes)
}

pub(crate) fn from_uplink(scene: &mut Scene, bytes: &[u8]) -> Outcome {
    scene.from_uplink(bytes)
}

/// What of a packet does not depend on its identification and the flags of IPv4.
fn essence(bytes: &[u8]) -> String {
    let mut bytes = bytes.to_vec();
    if bytes[12..14] == [8, 0] {
        bytes[18..22].fill(0);
        bytes = packet::with_header_checksum(bytes);
    }
    hex(&bytes[12..])
}

/// The guest sends a packet in pieces, and the far end answers in pieces.
fn check_both_ways(
    scene: &mut Scene,
    remote: IpAddr,
    (sent, answered): (Build, Build),
    length: usize,
) {
    let payload = payload(length);
    let whole = sent(&to(remote), (4_000, 53), &payload);
    let out = reassembled(&pass(scene, from_vm, &fragments(&whole, 512, 77)));
    packet::assert_checksums(&out);
    let nat_port = Packet::parse(&out).unwrap().ports.0;
    let expected = sent(
        &late(to(remote)).from(nat::host(remote)),
        (nat_port, 53),
        &payload,
    );
    assert_eq!(essence(&out), essence(&expected), "{remote}");

    let whole = answered(&back(remote), (53, nat_port), &payload);
    let into = pass(scene, from_uplink, &fragments(&whole, 1_024, 78));
    let ends = late(back(remote)).to(nat::guest(remote));
    let ends = Ends {
        src_mac: GATEWAY_MAC,
        dst_mac: GUEST_MAC,
        ..ends
    };
    for bytes in &into {
        assert_eq!(
            bytes[..12],
            [GUEST_MAC, GATEWAY_MAC].concat(),
            "hardware addresses"
        );
    }
    let into = reassembled(&into);
    packet::assert_checksums(&into);
    assert_eq!(
        essence(&into),
        essence(&answered(&ends, (53, 4_000), &payload)),
        "{remote}"
    );
}

#[test]
fn a_packet_in_pieces_is_translated_as_if_it_were_whole() {
    for remote in FAR {
        for protocol in PROTOCOLS {
            let mut scene = Scene::usual();
            // The last: a fragment of less than eight bytes.
            for length in [3_000, 10_001, 60_000, 512 * 3 - 8 + 1] {
                check_both_ways(&mut scene, remote, protocol, length);
            }
            assert_eq!(scene.open_flows(), 1);
            // Once more, when its time is written anew and its port looked after.
            scene.age_flows(4_000);
            scene.remove_reverses();
            check_both_ways(&mut scene, remote, protocol, 3_000);
            assert!(
                scene.datapath.drops().is_empty(),
                "{:?}",
                scene.datapath.drops()
            );
        }
    }
}

#[test]
fn later_fragments_follow_in_any_order_and_none_precedes_the_first() {
    for remote in FAR {
        let mut scene = Scene::usual();
        let whole = packet::udp(&to(remote), (4_000, 53), &payload(4_000));
        let pieces = fragments(&whole, 1_000, 9);
        let dropped = scene.from_vm(&pieces[2]);
        assert_eq!(dropped.verdict, verdict::DROP, "before the first");
        let drops = scene.datapath.drops();
        assert_eq!(drops, [((SLOT, DropReason::Fragment), 1)].into());
        for index in [0, 4, 2, 1, 3] {
            assert_eq!(
                scene.from_vm(&pieces[index]).verdict,
                verdict::REDIRECT,
                "{index}"
            );
        }
        let nat_port = scene
            .from_vm(&packet::udp(&to(remote), (4_000, 53), b""))
            .bytes;
        let nat_port = Packet::parse(&nat_port).unwrap().ports.0;
        let answer = packet::udp(&back(remote), (53, nat_port), &payload(4_000));
        let pieces = fragments(&answer, 1_000, 10);
        let strange = scene.from_uplink(&pieces[1]);
        assert_eq!(
            (strange.verdict, &strange.bytes),
            (verdict::NEXT, &pieces[1]),
            "the host's, for all we know"
        );
        for index in [0, 4, 2, 1, 3] {
            assert_eq!(
                scene.from_uplink(&pieces[index]).verdict,
                verdict::REDIRECT,
                "{index}"
            );
        }
    }
}

#[test]
fn a_datagram_without_a_checksum_keeps_none() {
    let mut scene = Scene::usual();
    let mut whole = packet::udp(&to(REMOTE_V4), (4_000, 53), &payload(2_000));
    whole[40..42].fill(0);
    let out = reassembled(&pass(&mut scene, from_vm, &fragments(&whole, 1_000, 1)));
    assert_eq!(out[40..42], [0, 0]);
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let mut scene = Scene::usual();
    for protocol in PROTOCOLS {
        let whole = protocol.0(&to(REMOTE_V6), (4_000, 53), b"RFC 6946");
        let atomic = piece(&whole, &whole[54..], (0, false), 5);
        let outcome = scene.from_vm(&atomic);
        assert_eq!(
            outcome.verdict,
            verdict::REDIRECT,
            "{:?}",
            scene.datapath.drops()
        );
        packet::assert_checksums(&reassembled(&[outcome.bytes]));
        let behind = piece(&whole, b"eight by", (64, false), 5);
        assert_eq!(
            scene.from_vm(&behind).verdict,
            verdict::DROP,
            "nothing follows it"
        );
    }
}
