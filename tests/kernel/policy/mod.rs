//! The policy of an instance: what its guest may open (P-3), and what becomes of flows when it changes (P-9).

mod changes;
mod order;

use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::net::{GATEWAY_MAC, protocol, tcp_flag};
use netagent_common::policy::{PolicyId, Verdict, policy_flag};
use netagent_common::vm::Interface;
use netagent_tests::packet::{self, Ends, Packet, Segment, hex};
use netagent_tests::prog_run::{Outcome, verdict};
use netagent_tests::scene::{self, REMOTE_V4, REMOTE_V6, SLOT, Scene, to};

use crate::drops::{Case, Maps};

const REMOTES: [IpAddr; 2] = [IpAddr::V4(REMOTE_V4), IpAddr::V6(REMOTE_V6)];
const TRANSPORTS: [u8; 3] = [protocol::TCP, protocol::UDP, protocol::ICMP];
/// Ports of a flow.
const PORTS: (u16, u16) = (4_000, 53);
const RST_ACK: u8 = tcp_flag::RST | tcp_flag::ACK;
const SYN_ACK: u8 = tcp_flag::SYN | tcp_flag::ACK;

/// Says the same of everything.
const ALL: PolicyId = [1; 16];

/// Puts a policy in force whose lists say this of the world, and of everything else what `rest` says; a generation
/// later than the last.
pub(crate) fn put(scene: &mut Scene, generation: u32, (world, rest): (Verdict, Verdict)) {
    let id = id_of(generation);
    let everything = [("0.0.0.0", 0), ("::", 0)].map(|(address, length)| {
        let address: IpAddr = address.parse().unwrap();
        ((address, length), rest)
    });
    let world = [(REMOTES[0], 24), (REMOTES[1], 48)].map(|prefix| (prefix, world));
    let entries: Vec<_> = everything.into_iter().chain(world).collect();
    scene.datapath.set_policy(id, &entries);
    set(scene, generation, |record| record.policy = id);
}

/// Names the policy that [`put`] writes for a generation.
pub(crate) fn id_of(generation: u32) -> PolicyId {
    let mut id = ALL;
    id[..4].copy_from_slice(&generation.to_ne_bytes());
    id
}

/// Puts a record in force, a generation later than the last.
pub(crate) fn set(scene: &mut Scene, generation: u32, change: impl FnOnce(&mut Interface)) {
    let mut record = scene::record();
    record.policy_generation += generation;
    change(&mut record);
    scene.datapath.set_interface(&record);
}

fn deny_all(record: &mut Interface) {
    record.policy_flags = policy_flag::DENY_ALL;
}

/// A packet of a flow of the guest: of TCP a segment with these flags.
pub(crate) fn sent(number: u8, ends: &Ends, flags: u8) -> Vec<u8> {
    match number {
        protocol::TCP => segment(ends, PORTS, flags),
        protocol::UDP => packet::udp(ends, PORTS, b"datagram"),
        _ => packet::echo_request(ends, (PORTS.0, 1), b"ping"),
    }
}

/// The packet that answers what left as this one.
pub(crate) fn answer(number: u8, ends: &Ends, left: &[u8]) -> Vec<u8> {
    let (nat_port, _) = Packet::parse(left).unwrap().ports;
    match number {
        protocol::TCP => segment(ends, (PORTS.1, nat_port), SYN_ACK),
        protocol::UDP => packet::udp(ends, (PORTS.1, nat_port), b"datagram"),
        _ => packet::echo_reply(ends, (nat_port, 1), b"ping"),
    }
}

pub(crate) fn segment(ends: &Ends, (src_port, dst_port): (u16, u16), flags: u8) -> Vec<u8> {
    let numbers = Segment {
        src_port,
        dst_port,
        sequence: 1_000,
        acknowledgement: 2_000,
        flags,
    };
    packet::tcp(ends, numbers, b"segment")
}

fn parsed(outcome: &Outcome) -> Packet {
    assert_eq!(
        outcome.verdict,
        verdict::REDIRECT,
        "{}",
        hex(&outcome.bytes)
    );
    packet::assert_checksums(&outcome.bytes);
    Packet::parse(&outcome.bytes).expect("a packet")
}

/// Sequence and acknowledgement number of a segment.
fn numbers(bytes: &[u8]) -> (u32, u32) {
    let start = packet::transport(bytes).unwrap().start;
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (word(start + 4), word(start + 8))
}

/// It was refused for the reason, and the guest told: by a reset where it was a segment, else by an ICMP error. A policy that
/// is not written yet resets nothing.
pub(crate) fn assert_refused(scene: &mut Scene, reason: DropReason, bytes: &[u8]) {
    let before = counted(scene, reason);
    let outcome = scene.from_vm(bytes);
    let told = parsed(&outcome);
    assert_eq!(counted(scene, reason), before + 1, "{reason:?}");
    let asked = Packet::parse(bytes).unwrap();
    assert_eq!(told.ends.src_mac, GATEWAY_MAC);
    assert_eq!(told.ends.dst, asked.ends.src);
    if asked.protocol == protocol::TCP && reason != DropReason::PolicyMissing {
        assert_eq!(told.protocol, protocol::TCP);
        assert_ne!(told.kind & tcp_flag::RST, 0);
        assert_eq!(told.ends.src, asked.ends.dst);
        assert_eq!(told.ports, (asked.ports.1, asked.ports.0));
        assert!(told.payload.is_empty());
    } else {
        assert_ne!(told.protocol, protocol::UDP);
        let prohibited = if asked.ends.src.is_ipv4() {
            (3, 13)
        } else {
            (1, 1)
        };
        let start = packet::transport(&outcome.bytes).unwrap().start;
        assert_eq!((outcome.bytes[start], outcome.bytes[start + 1]), prohibited);
    }
}

pub(crate) fn counted(scene: &mut Scene, reason: DropReason) -> u64 {
    let drops = scene.datapath.drops();
    drops.get(&(SLOT, reason)).copied().unwrap_or(0)
}

/// A policy that is in force in the table of drops.
pub(crate) fn prepare(scene: &mut Scene, verdict: Option<Verdict>) {
    match verdict {
        Some(verdict) => put(scene, 1, (verdict, Verdict::Default)),
        None => set(scene, 1, |record| record.policy = ALL),
    }
}

/// Packets that a policy refuses.
pub(crate) fn refused_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for remote in REMOTES {
        for number in TRANSPORTS {
            let bytes = || sent(number, &to(remote), tcp_flag::SYN);
            let listed = |reason, verdict| {
                Case::from_vm(reason, "by the lists", bytes()).with(Maps::Policy(Some(verdict)))
            };
            cases.push(listed(DropReason::DeniedCidr, Verdict::Denied));
            cases.push(listed(DropReason::NotAllowed, Verdict::NotAllowed));
            cases.push(listed(DropReason::AlwaysDenied, Verdict::AlwaysDenied));
            let missing = Case::from_vm(DropReason::PolicyMissing, "no policy", bytes());
            cases.push(missing.with(Maps::Policy(None)));
            let closed = Case::from_vm(DropReason::DenyAll, "deny-all", bytes());
            cases.push(closed.with(Maps::Flags(policy_flag::DENY_ALL)));
        }
    }
    cases
}
