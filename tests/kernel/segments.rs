//! Super-frames: how many segments they may have, and how they are counted.

use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::limit::SEGMENTS_MAX;
use netagent_common::names::{FROM_VM, map};
use netagent_common::vm::Traffic;
use netagent_tests::packet::{Ends, Packet, echo_reply, echo_request, udp};
use netagent_tests::prog_run::{Context, verdict};
use netagent_tests::scene::{self, SLOT, Scene, back, to};

use crate::drops::{Case, REMOTES};
use crate::nat::{Build, tcp_segment};

/// Payload of each segment: with it, as many segments as there may be fit into a page, as a test run wants.
const TINY: u32 = 10;

/// What is cut into segments, and the length of all its headers over IPv4.
const CUTTABLE: [(Build, usize); 2] = [(udp, 14 + 20 + 8), (tcp_segment, 14 + 20 + 20)];

/// Length of all headers of a packet to this address.
fn headers(remote: IpAddr, over_v4: usize) -> usize {
    over_v4 + if remote.is_ipv4() { 0 } else { 20 }
}

/// A packet of the guest that is `length` bytes long as a frame.
fn of_length(remote: IpAddr, (build, over_v4): (Build, usize), length: usize) -> Vec<u8> {
    let payload = vec![7; length - headers(remote, over_v4)];
    let bytes = build(&to(remote), (4_000, 53), &payload);
    assert_eq!(bytes.len(), length);
    bytes
}

pub(crate) fn segment_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |reason, what: &str, bytes, gso_size| {
        let context = Context {
            gso_size,
            ..scene::FROM_VM
        };
        cases.push(Case::from_vm(reason, what, bytes).seen_by(FROM_VM, context));
    };
    for remote in REMOTES {
        for protocol in CUTTABLE {
            for (gso_size, length) in [(TINY, SEGMENTS_MAX * TINY + 1), (1, SEGMENTS_MAX + 1)] {
                let bytes = of_length(remote, protocol, length as usize);
                add(
                    DropReason::TooManySegments,
                    "one byte too many",
                    bytes,
                    gso_size,
                );
            }
        }
        let ends = to(remote);
        let request = echo_request(&ends, (4_000, 3), &[7; 1_000]);
        add(
            DropReason::Malformed,
            "a ping that is cut up",
            request,
            1_000,
        );
    }
    cases
}

#[test]
fn a_super_frame_of_as_many_segments_as_there_may_be_passes() {
    let mut scene = Scene::usual();
    for remote in REMOTES {
        for protocol in CUTTABLE {
            let bytes = of_length(remote, protocol, (SEGMENTS_MAX * TINY) as usize);
            let outcome = scene.super_frame_from_vm(&bytes, TINY);
            let drops = scene.datapath.drops();
            assert_eq!(outcome.verdict, verdict::REDIRECT, "{remote}: {drops:?}");
        }
    }
}

#[test]
fn a_refused_super_frame_leaves_the_flow_to_others() {
    for remote in REMOTES {
        let mut scene = Scene::usual();
        let length = (SEGMENTS_MAX * TINY) as usize + 1;
        let refused = of_length(remote, CUTTABLE[0], length);
        assert_eq!(
            scene.super_frame_from_vm(&refused, TINY).verdict,
            verdict::DROP
        );
        let whole = scene.from_vm(&udp(&to(remote), (4_000, 53), b"one datagram"));
        assert_eq!(whole.verdict, verdict::REDIRECT, "{remote}");
    }
}

/// Traffic of the instance since the last look at `before`.
fn counted(scene: &mut Scene, before: &mut [u64; 4]) -> [u64; 4] {
    let cpus = scene.datapath.per_cpu::<Traffic>(map::TRAFFIC, SLOT);
    let sum = |field: fn(&Traffic) -> u64| cpus.iter().map(field).sum::<u64>();
    let now = [
        sum(|cpu| cpu.from_vm_packets),
        sum(|cpu| cpu.from_vm_bytes),
        sum(|cpu| cpu.to_vm_packets),
        sum(|cpu| cpu.to_vm_bytes),
    ];
    let since = std::array::from_fn(|index| now[index] - before[index]);
    *before = now;
    since
}

/// Payload and size of the segments of a super-frame, and into how many it is cut; 0 for a packet that is none.
const CUTS: [(usize, u32, u64); 6] = [
    (1_000, 300, 4),
    (900, 300, 3),
    (901, 300, 4),
    (300, 300, 1),
    (2_560, 100, 26),
    (1_000, 0, 1),
];

#[test]
fn traffic_counts_the_segments_of_a_super_frame_with_their_headers() {
    let mut scene = Scene::usual();
    let mut before = [0; 4];
    for remote in REMOTES {
        for (build, over_v4) in CUTTABLE {
            let headers = headers(remote, over_v4) as u64;
            for (length, gso_size, packets) in CUTS {
                let payload = vec![7; length];
                let bytes = length as u64 + packets * headers;
                let sent = build(&to(remote), (4_000, 53), &payload);
                let out = scene.super_frame_from_vm(&sent, gso_size);
                assert_eq!(out.verdict, verdict::REDIRECT, "{length} by {gso_size}");
                assert_eq!(
                    counted(&mut scene, &mut before),
                    [packets, bytes, 0, 0],
                    "{remote}: {length} by {gso_size}, from the guest"
                );
                let nat_port = Packet::parse(&out.bytes).unwrap().ports.0;
                let answer = build(&back(remote), (53, nat_port), &payload);
                let into = scene.super_frame_from_uplink(&answer, gso_size);
                assert_eq!(into.verdict, verdict::REDIRECT, "{length} by {gso_size}");
                assert_eq!(
                    counted(&mut scene, &mut before),
                    [0, 0, packets, bytes],
                    "{remote}: {length} by {gso_size}, to the guest"
                );
            }
        }
    }
}

#[test]
fn pings_are_counted_once_each_way() {
    let mut scene = Scene::usual();
    let mut before = [0; 4];
    for remote in REMOTES {
        let ends: Ends = to(remote);
        let request = echo_request(&ends, (4_000, 3), b"ping");
        let length = request.len() as u64;
        let out = scene.from_vm(&request);
        let identifier = Packet::parse(&out.bytes).unwrap().ports.0;
        assert_eq!(counted(&mut scene, &mut before), [1, length, 0, 0]);
        scene.from_uplink(&echo_reply(&back(remote), (identifier, 3), b"ping"));
        assert_eq!(counted(&mut scene, &mut before), [0, 0, 1, length]);
    }
}
