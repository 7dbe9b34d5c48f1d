//! Limits of what an instance sends and receives (P-11, P-13): what is charged, to whom, and what becomes of the rest.

use std::net::IpAddr;

use bytemuck::Zeroable;
use netagent_common::bucket::Buckets;
use netagent_common::drop::DropReason;
use netagent_common::limit::Rate;
use netagent_common::names::{TO_VM, map};
use netagent_common::vm::{Interface, Traffic};
use netagent_tests::packet::{Ends, Packet, echo_request, udp};
use netagent_tests::prog_run::{Outcome, Sizes, verdict};
use netagent_tests::scene::{self, FROM_HOST, OTHER_SLOT, SLOT, Scene, back, gateway_v6, to};
use nix::time::{ClockId, clock_gettime};

use crate::answers::any_answer;
use crate::drops::{Case, Maps, REMOTES, udp_to};
use crate::fragments;
use crate::nat::{PROTOCOLS, tcp_segment};

/// What a byte takes: so long that what is allowed again while a test runs is next to nothing.
const BYTE_NS: u64 = 10_000_000;
/// The same of a packet.
const PACKET_NS: u64 = 1_000 * BYTE_NS;
/// What is owed at the start, where it matters that nothing is forgiven meanwhile: longer than any test runs.
const OWED_NS: u64 = 50 * PACKET_NS;
/// More than all packets of a test cost.
const LONG_NS: u64 = 1 << 50;
/// Payload of most packets here.
const PAYLOAD: [u8; 100] = [7; 100];

/// A limit with a burst of so many bytes, or packets.
fn rate(each_ns: u64, burst: u64) -> Rate {
    Rate {
        price: each_ns << 20,
        burst_ns: each_ns * burst,
    }
}

/// Limits in both directions: bytes and packets that pass at once.
fn limited(bytes: u64, packets: u64) -> Interface {
    let mut record = scene::record();
    record.bandwidth = rate(BYTE_NS, bytes);
    record.bandwidth_in = rate(BYTE_NS, bytes);
    record.packets = rate(PACKET_NS, packets);
    record
}

/// Limits that nothing here reaches.
fn roomy() -> Interface {
    let mut record = limited(0, 0);
    for rate in [
        &mut record.bandwidth,
        &mut record.bandwidth_in,
        &mut record.packets,
    ] {
        rate.burst_ns = LONG_NS;
    }
    record
}

fn scene_with(record: &Interface) -> Scene {
    Scene::new(Sizes::default(), record)
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}

fn buckets(scene: &mut Scene) -> Buckets {
    let buckets = scene.datapath.array::<Buckets>(map::BUCKETS);
    buckets.get(&SLOT, 0).unwrap()
}

/// Lets the instance owe in every bucket as if it had used up everything until so far from now.
fn owe(scene: &mut Scene, owed_ns: u64) {
    let mut owed = Buckets::zeroed();
    let paid_ns = now_ns() + owed_ns;
    for direction in [&mut owed.from_vm, &mut owed.to_vm] {
        (direction.bytes_ns, direction.packets_ns) = (paid_ns, paid_ns);
    }
    let mut buckets = scene.datapath.array::<Buckets>(map::BUCKETS);
    buckets.set(SLOT, owed, 0).unwrap();
}

fn traffic(scene: &mut Scene, slot: u32) -> Traffic {
    let mut sum = Traffic::zeroed();
    for part in scene.datapath.per_cpu::<Traffic>(map::TRAFFIC, slot) {
        sum.from_vm_packets += part.from_vm_packets;
        sum.from_vm_bytes += part.from_vm_bytes;
        sum.to_vm_packets += part.to_vm_packets;
        sum.to_vm_bytes += part.to_vm_bytes;
    }
    sum
}

/// Whether limits of bytes or of packets are reached.
pub(crate) fn over_limit(is_bytes: bool) -> Interface {
    let mut record = scene::record();
    if is_bytes {
        record.bandwidth = rate(BYTE_NS, 0);
        record.bandwidth_in = rate(BYTE_NS, 0);
    } else {
        record.packets = rate(PACKET_NS, 0);
    }
    record
}

/// Lets the instance owe so much that nothing passes within the bursts of most tests.
pub(crate) fn leave_nothing(scene: &mut Scene) {
    owe(scene, OWED_NS);
}

fn from_host(remote: IpAddr) -> Ends {
    let gateway: IpAddr = if remote.is_ipv4() {
        scene::GATEWAY_V4.into()
    } else {
        gateway_v6().into()
    };
    to(gateway).reversed()
}

pub(crate) fn limit_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for remote in REMOTES {
        let sent = udp_to(remote);
        let received = echo_request(&from_host(remote), (9, 1), &PAYLOAD);
        for (reasons, maps) in [
            (
                [DropReason::Bandwidth, DropReason::BandwidthIn],
                Maps::OverBytes,
            ),
            ([DropReason::PacketRate; 2], Maps::OverPackets),
        ] {
            cases.push(Case::from_vm(reasons[0], "sent", sent.clone()).with(maps));
            let case = Case::from_vm(reasons[1], "received", received.clone());
            cases.push(case.with(maps).seen_by(TO_VM, FROM_HOST));
        }
    }
    cases
}

/// What was charged and counted since `before`: packets and bytes from the guest, and to it.
fn check_charged(
    scene: &mut Scene,
    before: (Buckets, Traffic),
    (from_vm, to_vm): ((u64, u64), (u64, u64)),
    what: &str,
) {
    let (owed, counted) = (buckets(scene), traffic(scene, SLOT));
    let (owed_before, before) = before;
    let drops = scene.datapath.drops();
    let charged = |now: u64, before: u64, each_ns| (now - before) / each_ns;
    let sent = (owed.from_vm, owed_before.from_vm);
    let received = (owed.to_vm, owed_before.to_vm);
    for ((now, before), expected) in [(sent, from_vm), (received, to_vm)] {
        let packets = charged(now.packets_ns, before.packets_ns, PACKET_NS);
        let bytes = charged(now.bytes_ns, before.bytes_ns, BYTE_NS);
        assert_eq!((packets, bytes), expected, "{what}: charged; {drops:?}");
    }
    let counted = (
        (
            counted.from_vm_packets - before.from_vm_packets,
            counted.from_vm_bytes - before.from_vm_bytes,
        ),
        (
            counted.to_vm_packets - before.to_vm_packets,
            counted.to_vm_bytes - before.to_vm_bytes,
        ),
    );
    assert_eq!(counted, (from_vm, to_vm), "{what}: counted; {drops:?}");
}

fn state(scene: &mut Scene) -> (Buckets, Traffic) {
    (buckets(scene), traffic(scene, SLOT))
}

fn passes(scene: &mut Scene, outcome: &Outcome, what: &str) {
    let drops = scene.datapath.drops();
    assert!(
        matches!(outcome.verdict, verdict::REDIRECT | verdict::NEXT),
        "{what}: {drops:?}"
    );
}

#[test]
fn what_the_guest_and_the_world_say_is_charged_once_and_counted_once() {
    let mut scene = scene_with(&roomy());
    leave_nothing(&mut scene);
    for remote in REMOTES {
        for (number, (sent, answered)) in PROTOCOLS.into_iter().enumerate() {
            let what = format!("{remote}, protocol {number}");
            let port = 4_000 + number as u16;
            let before = state(&mut scene);
            let bytes = sent(&to(remote), (port, 53), &PAYLOAD);
            let outcome = scene.from_vm(&bytes);
            passes(&mut scene, &outcome, &what);
            let amount = (1, bytes.len() as u64);
            check_charged(&mut scene, before, (amount, (0, 0)), &what);

            let nat_port = Packet::parse(&outcome.bytes).unwrap().ports.0;
            let before = state(&mut scene);
            let bytes = answered(&back(remote), (53, nat_port), &PAYLOAD);
            let outcome = scene.from_uplink(&bytes);
            passes(&mut scene, &outcome, &what);
            let amount = (1, bytes.len() as u64);
            check_charged(&mut scene, before, ((0, 0), amount), &what);
        }
    }
}

#[test]
fn what_host_and_servers_hear_and_say_is_charged_too() {
    let mut scene = scene_with(&roomy());
    leave_nothing(&mut scene);
    for remote in REMOTES {
        let before = state(&mut scene);
        let bytes = echo_request(&from_host(remote), (9, 1), &PAYLOAD);
        let outcome = scene.from_host(&bytes);
        passes(&mut scene, &outcome, "a ping of the host");
        let amount = (1, bytes.len() as u64);
        check_charged(&mut scene, before, ((0, 0), amount), "a ping of the host");

        let before = state(&mut scene);
        let gateway = from_host(remote).src;
        let bytes = udp(&to(gateway), (4_000, 53), &PAYLOAD);
        let outcome = scene.from_vm(&bytes);
        passes(&mut scene, &outcome, "a query");
        let amount = (1, bytes.len() as u64);
        check_charged(&mut scene, before, (amount, (0, 0)), "a query");
    }
    let before = state(&mut scene);
    let bytes = any_answer(0);
    let outcome = scene.from_services(&bytes);
    passes(&mut scene, &outcome, "an answer");
    let amount = (1, bytes.len() as u64);
    check_charged(&mut scene, before, ((0, 0), amount), "an answer");
}

#[test]
fn a_super_frame_is_charged_as_the_wire_carries_it() {
    const GSO_SIZE: u32 = 100;
    let mut scene = scene_with(&roomy());
    leave_nothing(&mut scene);
    for (remote, headers) in REMOTES.into_iter().zip([14 + 20 + 20, 14 + 40 + 20]) {
        let before = state(&mut scene);
        let bytes = tcp_segment(&to(remote), (4_000, 53), &[7; 1_050]);
        let outcome = scene.super_frame_from_vm(&bytes, GSO_SIZE);
        passes(&mut scene, &outcome, "sent");
        let amount = (11, bytes.len() as u64 + 10 * headers);
        check_charged(&mut scene, before, (amount, (0, 0)), "sent");

        let nat_port = Packet::parse(&outcome.bytes).unwrap().ports.0;
        let before = state(&mut scene);
        let bytes = tcp_segment(&back(remote), (53, nat_port), &[7; 1_050]);
        let outcome = scene.super_frame_from_uplink(&bytes, GSO_SIZE);
        passes(&mut scene, &outcome, "received");
        let amount = (11, bytes.len() as u64 + 10 * headers);
        check_charged(&mut scene, before, ((0, 0), amount), "received");
    }
}

#[test]
fn fragments_are_charged_too() {
    let mut scene = scene_with(&roomy());
    leave_nothing(&mut scene);
    for remote in REMOTES {
        let before = state(&mut scene);
        let whole = udp(&to(remote), (4_000, 53), &fragments::payload(1_200));
        let pieces = netagent_tests::fragment::fragments(&whole, 800, 77);
        let mut amount = (0, 0);
        for piece in &pieces {
            let outcome = scene.from_vm(piece);
            passes(&mut scene, &outcome, "a fragment");
            amount = (amount.0 + 1, amount.1 + piece.len() as u64);
        }
        check_charged(&mut scene, before, (amount, (0, 0)), "fragments");
    }
}

/// How many of ten packets of the guest pass.
fn sent(scene: &mut Scene, remote: IpAddr) -> usize {
    let bytes = udp(&to(remote), (4_000, 53), &PAYLOAD);
    let pass = |_: &u32| scene.from_vm(&bytes).verdict == verdict::REDIRECT;
    (0..10).filter(pass).count()
}

#[test]
fn as_many_bytes_pass_as_the_burst_has_and_what_is_dropped_is_not_counted() {
    for remote in REMOTES {
        let len = udp(&to(remote), (4_000, 53), &PAYLOAD).len() as u64;
        let mut scene = scene_with(&limited(3 * len + len / 2, 1_000));
        assert_eq!(sent(&mut scene, remote), 3);
        let dropped = scene.datapath.drops()[&(SLOT, DropReason::Bandwidth)];
        let counted = traffic(&mut scene, SLOT);
        assert_eq!((counted.from_vm_packets, dropped), (3, 7), "{remote}");
        let owed = buckets(&mut scene).from_vm.packets_ns - now_ns();
        // A packet that was too many bytes is none too many, too.
        assert!(
            owed <= 3 * PACKET_NS,
            "{owed} ns are owed for three packets"
        );
    }
}

#[test]
fn as_many_packets_pass_as_the_burst_has() {
    for remote in REMOTES {
        let mut scene = scene_with(&limited(100_000, 4));
        assert_eq!(sent(&mut scene, remote), 4, "{remote}");
        let dropped = scene.datapath.drops()[&(SLOT, DropReason::PacketRate)];
        assert_eq!(dropped, 6, "{remote}");
    }
}

#[test]
fn a_limit_of_one_direction_leaves_the_other_alone() {
    let mut scene = scene_with(&over_limit(true));
    let mut record = over_limit(true);
    record.bandwidth = Rate::NONE;
    scene.datapath.set_interface(&record);
    leave_nothing(&mut scene);
    let before = buckets(&mut scene);
    for remote in REMOTES {
        let outcome = scene.from_vm(&udp_to(remote));
        assert_eq!(outcome.verdict, verdict::REDIRECT, "{remote}");
        let nat_port = Packet::parse(&outcome.bytes).unwrap().ports.0;
        let answer = udp(&back(remote), (5_000, nat_port), &PAYLOAD);
        assert_eq!(scene.from_uplink(&answer).verdict, verdict::DROP);
    }
    let dropped = scene.datapath.drops()[&(SLOT, DropReason::BandwidthIn)];
    assert_eq!(dropped, 2);
    assert!(buckets(&mut scene) == before, "nothing is charged");
}

#[test]
fn interfaces_of_one_instance_share_its_limits_and_another_instance_has_its_own() {
    let len = udp_to(REMOTES[0]).len() as u64;
    let record = limited(3 * len + len / 2, 1_000);
    for (instance, passing) in [(SLOT, 1), (OTHER_SLOT, 3)] {
        let mut scene = scene_with(&record);
        scene.add_other(record);
        scene.datapath.set_interface(&Interface {
            ifindex: scene::OTHER_TAP,
            slot: OTHER_SLOT,
            instance,
            ..record
        });
        for number in 0..2 {
            let bytes = udp(&to(REMOTES[0]), (4_000 + number, 53), b"payload");
            assert_eq!(scene.from_vm(&bytes).verdict, verdict::REDIRECT);
        }
        let pass = |number: &u16| {
            let bytes = udp(&to(REMOTES[0]), (5_000 + number, 53), b"payload");
            scene.from_other(&bytes).verdict == verdict::REDIRECT
        };
        assert_eq!((0..3).filter(pass).count(), passing, "of {instance}");
    }
}

#[test]
fn limits_change_while_packets_pass() {
    let mut scene = scene_with(&limited(200, 1_000));
    for remote in REMOTES {
        leave_nothing(&mut scene);
        scene.datapath.set_interface(&limited(200, 1_000));
        assert_eq!(sent(&mut scene, remote), 0, "{remote}");
        scene.datapath.set_interface(&scene::record());
        assert_eq!(sent(&mut scene, remote), 10, "{remote}: without limits");
        // What is owed since the slow times is forgiven.
        let mut fast = scene::record();
        fast.bandwidth = rate(10, 1_000_000);
        scene.datapath.set_interface(&fast);
        assert_eq!(sent(&mut scene, remote), 10, "{remote}: at a higher rate");
        scene.datapath.set_interface(&limited(0, 1_000));
        assert_eq!(sent(&mut scene, remote), 0, "{remote}: at the old one");
    }
}

/// The packet with another ECN field, and the right checksum.
fn with_ecn(mut bytes: Vec<u8>, ecn: u8) -> Vec<u8> {
    if bytes[12..14] == [0x08, 0] {
        bytes[15] |= ecn;
        return netagent_tests::packet::with_header_checksum(bytes);
    }
    bytes[15] |= ecn << 4;
    bytes
}

fn ecn(bytes: &[u8]) -> u8 {
    if bytes[12..14] == [0x08, 0] {
        bytes[15] & 3
    } else {
        bytes[15] >> 4 & 3
    }
}

#[test]
fn who_knows_congestion_marks_gets_them_before_anything_is_dropped() {
    for remote in REMOTES {
        for (sent, marked) in [(0, 0), (1, 3), (2, 3), (3, 3)] {
            let bytes = with_ecn(udp_to(remote), sent);
            let len = bytes.len() as u64;
            let mut scene = scene_with(&limited(4 * len, 1_000));
            let seen: Vec<u8> = (0..4)
                .map(|_| {
                    let outcome = scene.from_vm(&bytes);
                    passes(&mut scene, &outcome, "marked");
                    netagent_tests::packet::assert_checksums(&outcome.bytes);
                    ecn(&outcome.bytes)
                })
                .collect();
            assert_eq!(seen[0], sent, "{remote}: {sent}");
            assert_eq!(seen[3], marked, "{remote}: {sent}");
        }
    }
}

#[test]
fn a_lower_limit_of_flows_holds_for_the_next_flow() {
    for remote in REMOTES {
        let mut scene = Scene::usual();
        let mut record = scene::record();
        assert_eq!(scene.from_vm(&udp_to(remote)).verdict, verdict::REDIRECT);
        record.flow_limit = 1;
        scene.datapath.set_interface(&record);
        assert_eq!(scene.from_vm(&udp_to(remote)).verdict, verdict::REDIRECT);
        scene.from_vm(&udp(&to(remote), (4_001, 5_000), b"payload"));
        let dropped = scene.datapath.drops()[&(SLOT, DropReason::FlowLimit)];
        assert_eq!(dropped, 1, "{remote}");
    }
}
