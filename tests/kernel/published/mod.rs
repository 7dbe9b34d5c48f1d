//! Published and exposed ports: who may open a flow towards a guest, and what becomes of its packets.

mod between_guests;
mod exposed;
mod from_world;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::drop::{DropReason, NO_SLOT};
use netagent_common::names::FROM_UPLINK;
use netagent_common::net::{GATEWAY_MAC, protocol, tcp_flag};
use netagent_common::vm::Interface;
use netagent_tests::packet::{self, Ends, Packet, Segment, hex};
use netagent_tests::prog_run::{Outcome, verdict};
use netagent_tests::published::{Publication, publish};
use netagent_tests::scene::{
    self, GUEST_V4, GUEST_V6, HOST_V4, HOST_V6, OTHER_SLOT, REMOTE_V4, REMOTE_V6, SLOT, Scene,
    back, to,
};

use crate::drops::Case;

const REMOTES: [IpAddr; 2] = [IpAddr::V4(REMOTE_V4), IpAddr::V6(REMOTE_V6)];
const PROTOCOLS: [u8; 2] = [protocol::TCP, protocol::UDP];

/// Port of the host, and of the guest.
const PORTS: (u16, u16) = (8_080, 80);
/// Port of the client.
const CLIENT: u16 = 51_000;
const SYN_ACK: u8 = tcp_flag::SYN | tcp_flag::ACK;

fn publication(protocol: u8, address: IpAddr) -> Publication {
    Publication {
        id: 1,
        protocol,
        address,
        port: PORTS.0,
        guest_port: PORTS.1,
        limited: false,
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

fn host(like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        HOST_V4.into()
    } else {
        HOST_V6.into()
    }
}

fn guest(like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        GUEST_V4.into()
    } else {
        GUEST_V6.into()
    }
}

/// A scene in which the guest's port is published for everybody, at every address.
fn published() -> Scene {
    let mut scene = Scene::usual();
    for remote in REMOTES {
        for protocol in PROTOCOLS {
            let publication = publication(protocol, unspecified(remote));
            publish(&mut scene.datapath, &scene::record(), &publication);
        }
    }
    scene
}

fn message(protocol: u8, ends: &Ends, (src_port, dst_port): (u16, u16), flags: u8) -> Vec<u8> {
    if protocol == protocol::UDP {
        return packet::udp(ends, (src_port, dst_port), b"datagram");
    }
    let segment = Segment {
        src_port,
        dst_port,
        sequence: 7,
        acknowledgement: 9,
        flags,
    };
    packet::tcp(ends, segment, b"segment")
}

/// The first packet of a client at the published port.
fn knock(protocol: u8, ends: &Ends) -> Vec<u8> {
    message(protocol, ends, (CLIENT, PORTS.0), tcp_flag::SYN)
}

fn seen(outcome: &Outcome) -> Packet {
    assert_eq!(
        outcome.verdict,
        verdict::REDIRECT,
        "{}",
        hex(&outcome.bytes)
    );
    packet::assert_checksums(&outcome.bytes);
    Packet::parse(&outcome.bytes).expect("a packet")
}

/// Nothing of it reached anybody but the guest, which may have been told why.
fn assert_refused(outcome: &Outcome, what: &str) {
    let is_told = outcome.verdict == verdict::REDIRECT
        && Packet::parse(&outcome.bytes).is_some_and(|packet| {
            let is_error = packet.protocol != protocol::TCP && packet.protocol != protocol::UDP;
            is_error && packet.ends.src_mac == GATEWAY_MAC
        });
    assert!(
        is_told || outcome.verdict == verdict::DROP,
        "{what}: {}",
        hex(&outcome.bytes)
    );
}

fn drops_of(scene: &mut Scene, reason: DropReason) -> u64 {
    let drops = scene.datapath.drops();
    let of = |slot| drops.get(&(slot, reason)).copied().unwrap_or(0);
    of(SLOT) + of(NO_SLOT) + of(OTHER_SLOT)
}

/// The agent changed what is published: every flow is judged anew.
fn raise_policy_generation(scene: &mut Scene) {
    let record = scene::record();
    scene.datapath.set_interface(&Interface {
        policy_generation: record.policy_generation + 1,
        ..record
    });
}

/// Packets for published ports that are dropped.
pub(crate) fn denied_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for remote in REMOTES {
        let outsider = knock(protocol::TCP, &back(remote));
        cases.push(
            Case::from_vm(DropReason::PublishDenied, "from outside", outsider)
                .seen_by(FROM_UPLINK, scene::FROM_UPLINK)
                .with(crate::drops::Maps::Limited),
        );
        let taken = message(
            protocol::TCP,
            &back(remote),
            (5_000, PORTS.0),
            tcp_flag::SYN,
        );
        cases.push(
            Case::from_vm(DropReason::FlowTaken, "the guest's ports", taken)
                .seen_by(FROM_UPLINK, scene::FROM_UPLINK)
                .with(crate::drops::Maps::Taken),
        );
    }
    cases
}

/// Publishes a port in both families: only for others, or for everybody while the guest has a flow with the port.
pub(crate) fn prepare(scene: &mut Scene, limited: bool) {
    for remote in REMOTES {
        let publication = Publication {
            limited,
            ..publication(protocol::TCP, unspecified(remote))
        };
        publish(&mut scene.datapath, &scene::record(), &publication);
        if !limited {
            let own = message(protocol::TCP, &to(remote), (PORTS.1, 5_000), tcp_flag::SYN);
            assert_eq!(scene.from_vm(&own).verdict, verdict::REDIRECT);
        }
    }
}
