//! One packet for every reason to drop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netagent_common::drop::{DropReason, NO_SLOT};
use netagent_common::names::{FROM_UPLINK, FROM_VM};
use netagent_common::net::{protocol, tcp_flag};
use netagent_common::policy::Verdict;
use netagent_tests::coverage;
use netagent_tests::packet;
use netagent_tests::prog_run::{Context, Outcome, Sizes, verdict};
use netagent_tests::scene::{self, REMOTE_V4, REMOTE_V6, SLOT, Scene, to};

use crate::{
    bandwidth, drop_all, frames, limits, names, paths, policy, published, relay, requests,
    segments, services, snat, spoofs,
};

/// In which state of the maps a packet is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Maps {
    Usual,
    NoRecord,
    OldRecord,
    OnePort,
    OneFlowInTable,
    OneFlowPerInstance,
    /// The agent's servers are not there.
    NoServers,
    /// The instance has used up what it may ask of the servers.
    NothingLeft,
    /// The interface has no IPv6.
    NoV6,
    /// The instance has four interfaces.
    Several,
    /// A port is published, but not for the sender.
    Limited,
    /// The instance is to leave under an address that the host does not have.
    NoSnat,
    /// The record has these flags.
    Flags(u32),
    /// A list of names is in force, beside one that allows every network.
    Names,
    /// A policy says this of the world; `None` where it is not there.
    Policy(Option<Verdict>),
    /// A port is published, and the guest has a flow with the ports of the sender.
    Taken,
    /// The instance sent and received more bytes than it may.
    OverBytes,
    /// It sent and received more packets than it may.
    OverPackets,
}

/// A packet and why it is dropped.
pub(crate) struct Case {
    reason: DropReason,
    what: String,
    maps: Maps,
    program: &'static str,
    context: Context,
    bytes: Vec<u8>,
}

impl Case {
    pub(crate) fn from_vm(reason: DropReason, what: &str, bytes: Vec<u8>) -> Self {
        let (maps, program, context) = (Maps::Usual, FROM_VM, scene::FROM_VM);
        Self {
            reason,
            what: what.to_owned(),
            maps,
            program,
            context,
            bytes,
        }
    }

    pub(crate) fn with(self, maps: Maps) -> Self {
        Self { maps, ..self }
    }

    pub(crate) fn seen_by(self, program: &'static str, context: Context) -> Self {
        Self {
            program,
            context,
            ..self
        }
    }

    /// Slot that counts the drop.
    fn slot(&self) -> u32 {
        let is_nowhere = self.maps == Maps::NoRecord
            || self.maps == Maps::OldRecord
            || self.program == FROM_UPLINK;
        let is_published = matches!(self.maps, Maps::Limited | Maps::Taken);
        if is_nowhere && !is_published {
            NO_SLOT
        } else {
            SLOT
        }
    }
}

pub(crate) const REMOTES: [IpAddr; 2] = [IpAddr::V4(REMOTE_V4), IpAddr::V6(REMOTE_V6)];

pub(crate) fn udp_to(dst: impl Into<IpAddr>) -> Vec<u8> {
    packet::udp(&to(dst), (4_000, 5_000), b"payload")
}

fn cases() -> Vec<Case> {
    let tables = [
        frames::maps_cases(),
        frames::malformed_cases(),
        frames::refused_cases(),
        frames::report_cases(),
        spoofs::spoof_cases(),
        spoofs::arp_cases(),
        spoofs::discovery_cases(),
        paths::destination_cases(),
        paths::path_cases(),
        segments::segment_cases(),
        requests::unserved_cases(),
        requests::closed_cases(),
        requests::spoofed_cases(),
        requests::solicitation_cases(),
        requests::super_frame_cases(),
        published::denied_cases(),
        snat::gone_cases(),
        bandwidth::limit_cases(),
        drop_all::dropped_cases(),
        policy::refused_cases(),
        names::bypass_cases(),
        relay::down_cases(),
    ];
    tables.into_iter().flatten().collect()
}

/// Maps in the state of a case; where it is about a second flow, the first one is open.
fn scene(maps: Maps) -> Scene {
    let (mut sizes, mut record) = (Sizes::default(), scene::record());
    match maps {
        Maps::Usual
        | Maps::NoRecord
        | Maps::NoServers
        | Maps::NothingLeft
        | Maps::Limited
        | Maps::Policy(_)
        | Maps::Names
        | Maps::Taken => {}
        Maps::NoV6 => record.has_v6 = 0,
        Maps::Several => record = services::record(),
        Maps::NoSnat => record = snat::record(),
        Maps::Flags(flags) => record.policy_flags = flags,
        Maps::OldRecord => record.abi += 1,
        Maps::OnePort => sizes.nat_port_count = 1,
        Maps::OneFlowInTable => sizes.flows_max = 1,
        Maps::OneFlowPerInstance => record.flow_limit = 2,
        Maps::OverBytes => record = bandwidth::over_limit(true),
        Maps::OverPackets => record = bandwidth::over_limit(false),
    }
    let mut scene = Scene::new(sizes, &record);
    if let Maps::Policy(verdict) = maps {
        policy::prepare(&mut scene, verdict);
    }
    if maps == Maps::Names {
        names::prepare(&mut scene);
    }
    if maps == Maps::NoRecord {
        scene.datapath.set_active(SLOT, 0);
    }
    if maps == Maps::NoServers {
        scene::set_services(&mut scene.datapath, 0);
    }
    if matches!(maps, Maps::Limited | Maps::Taken) {
        published::prepare(&mut scene, maps == Maps::Limited);
    }
    if matches!(maps, Maps::OverBytes | Maps::OverPackets) {
        bandwidth::leave_nothing(&mut scene);
    }
    if maps == Maps::NothingLeft {
        limits::leave_nothing(&mut scene);
    }
    if matches!(
        maps,
        Maps::OnePort | Maps::OneFlowInTable | Maps::OneFlowPerInstance
    ) {
        for remote in REMOTES {
            let first = scene.from_vm(&packet::udp(&to(remote), (3_999, 5_000), b"first"));
            assert_eq!(
                first.verdict,
                verdict::REDIRECT,
                "{maps:?}: the first flow passes"
            );
        }
    }
    scene
}

/// Whether the guest got an error instead (see `errors.rs`), or a reset (see `policy`).
pub(crate) fn is_told(outcome: &Outcome) -> bool {
    let told = |packet: packet::Packet| {
        let is_error = match packet.protocol {
            protocol::TCP => packet.kind & tcp_flag::RST != 0,
            protocol::ICMP => [2, 3, 11].contains(&packet.kind),
            _ => [1, 2, 3].contains(&packet.kind),
        };
        packet.ends.dst_mac == scene::GUEST_MAC && is_error
    };
    outcome.verdict == verdict::REDIRECT && packet::Packet::parse(&outcome.bytes).is_some_and(told)
}

#[test]
fn every_packet_of_the_table_is_dropped_for_its_reason() {
    let mut scenes = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in cases() {
        let scene = scenes.entry(case.maps).or_insert_with(|| scene(case.maps));
        let before = scene.datapath.drops();
        let outcome = scene.datapath.run(case.program, &case.bytes, case.context);
        let mut after = scene.datapath.drops();
        after.retain(|key, count| {
            *count -= before.get(key).copied().unwrap_or(0);
            *count != 0
        });
        let expected = BTreeMap::from([((case.slot(), case.reason), 1)]);
        let is_dropped = outcome.verdict == verdict::DROP || is_told(&outcome);
        if !is_dropped || after != expected {
            wrong.push(format!(
                "{} {} ({}): verdict {}, {after:?}",
                case.reason.name(),
                case.what,
                packet::hex(&case.bytes[..case.bytes.len().min(60)]),
                outcome.verdict
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} packets:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_reason_has_a_packet() {
    let here: BTreeSet<DropReason> = cases().iter().map(|case| case.reason).collect();
    for reason in DropReason::ALL {
        let places = [
            here.contains(reason),
            coverage::SYSTEM.contains(reason),
            coverage::SERVERS.contains(reason),
            coverage::OUT_OF_REACH
                .iter()
                .any(|(listed, _)| listed == reason),
        ];
        let count = places.iter().filter(|place| **place).count();
        assert_eq!(
            count,
            1,
            "{} is reached in {count} of the four lists",
            reason.name()
        );
    }
}
