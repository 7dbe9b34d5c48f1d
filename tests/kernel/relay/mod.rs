//! Relays: the four places that a packet passes, each as the program of its TAP sees it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::Zeroable;
use netagent_common::drop::DropReason;
use netagent_common::names::map;
use netagent_common::net::tcp_flag::{ACK, SYN};
use netagent_common::net::{GATEWAY_MAC, protocol};
use netagent_common::policy::policy_flag::{LEG, RELAY, RELAYED};
use netagent_common::vm::{self, Client, Interface, Traffic};
use netagent_tests::packet::{self, Ends, Packet, Segment, hex};
use netagent_tests::prog_run::{Outcome, Sizes, verdict};
use netagent_tests::scene::{
    self, GUEST_MAC, GUEST_V4, GUEST_V6, OTHER_SLOT, OTHER_TAP, REMOTE_V4, REMOTE_V6, SLOT, Scene,
    back, to,
};

use crate::drops::{Case, Maps};

mod carried;
mod closed;
mod errors;
mod names;
mod policy;
mod ports;

/// Slot of the client's leg.
const LEG_SLOT: u32 = 100;
/// The relay's VM.
const RELAY_MAC: [u8; 6] = [0xaa, 0xfc, 0, 0, 0, 7];
const RELAY_V4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 26);
const RELAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa, 0xb, OTHER_SLOT as u16, 0, 0, 0, 2);
const REMOTES: [IpAddr; 2] = [IpAddr::V4(REMOTE_V4), IpAddr::V6(REMOTE_V6)];
/// Of the client, and of the world.
const PORTS: (u16, u16) = (5_000, 80);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Echo,
}

const KINDS: [Kind; 3] = [Kind::Tcp, Kind::Udp, Kind::Echo];

fn guest(like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        GUEST_V4.into()
    } else {
        GUEST_V6.into()
    }
}

fn relay(like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        RELAY_V4.into()
    } else {
        RELAY_V6.into()
    }
}

fn message(kind: Kind, ends: &Ends, (src_port, dst_port): (u16, u16), flags: u8) -> Vec<u8> {
    match kind {
        Kind::Tcp => {
            let segment = Segment {
                src_port,
                dst_port,
                sequence: 7,
                acknowledgement: 9,
                flags,
            };
            packet::tcp(ends, segment, b"segment")
        }
        Kind::Udp => packet::udp(ends, (src_port, dst_port), b"datagram"),
        Kind::Echo if flags & ACK == 0 => packet::echo_request(ends, (PORTS.0, 1), b"echo"),
        Kind::Echo => packet::echo_reply(ends, (PORTS.0, 1), b"echo"),
    }
}

/// What the client asks of the world.
fn question(kind: Kind, remote: IpAddr) -> Vec<u8> {
    message(kind, &to(remote), PORTS, SYN)
}

/// As the relay's VM forwards what the client sent: one hop further, by its own MAC address.
fn forwarded(ends: &Ends) -> Ends {
    Ends {
        src_mac: RELAY_MAC,
        dst_mac: GATEWAY_MAC,
        ttl: ends.ttl - 1,
        ..*ends
    }
}

/// As the relay's VM forwards what the world sent to the client.
fn returned(remote: IpAddr) -> Ends {
    Ends {
        src_mac: RELAY_MAC,
        dst_mac: GATEWAY_MAC,
        src: remote,
        dst: guest(remote),
        ttl: 58,
    }
}

/// Packets of a client whose relay is not there.
pub(crate) fn down_cases() -> Vec<Case> {
    let packets = REMOTES.map(|remote| {
        let bytes = question(Kind::Udp, remote);
        Case::from_vm(DropReason::RelayDown, "without a leg", bytes).with(Maps::Flags(RELAYED))
    });
    Vec::from(packets)
}

/// The client's own record.
fn client() -> Interface {
    let mut record = scene::record();
    record.policy_flags = RELAYED;
    record.leg = LEG_SLOT;
    record
}

/// The record of its leg, as long as the relay is there.
fn leg_of(client: &Interface) -> Interface {
    Interface {
        ifindex: OTHER_TAP,
        slot: LEG_SLOT,
        instance: LEG_SLOT,
        guest_mac: RELAY_MAC,
        policy: Interface::zeroed().policy,
        policy_flags: LEG,
        leg: 0,
        client: client.slot,
        ..*client
    }
}

fn relay_record() -> Interface {
    let mut record = scene::record();
    record.generation += 1;
    record.guest_mac = RELAY_MAC;
    record.addresses_v4[0] = RELAY_V4.octets();
    record.addresses_v6[0] = RELAY_V6.octets();
    record.policy_flags = RELAY;
    record
}

/// A client with this record, and its relay.
fn relayed_with(client: &Interface) -> Scene {
    let mut scene = Scene::new(Sizes::default(), client);
    scene.add_other(relay_record());
    scene.datapath.set_interface(&leg_of(client));
    add_client(&mut scene, (GUEST_V4, GUEST_V6), (SLOT, LEG_SLOT));
    scene
}

fn relayed() -> Scene {
    relayed_with(&client())
}

fn add_client(scene: &mut Scene, (v4, v6): (Ipv4Addr, Ipv6Addr), (slot, leg): (u32, u32)) {
    let found = Client { slot, leg };
    let mut network = v6.octets();
    network[8..].fill(0);
    scene
        .datapath
        .insert::<[u8; 4], Client>(map::CLIENTS_V4, v4.octets(), found);
    scene
        .datapath
        .insert::<[u8; 16], Client>(map::CLIENTS_V6, network, found);
}

fn drops_of(scene: &mut Scene, slot: u32, reason: DropReason) -> u64 {
    let drops = scene.datapath.drops();
    drops.get(&(slot, reason)).copied().unwrap_or(0)
}

fn traffic_of(scene: &mut Scene, slot: u32) -> (u64, u64) {
    let of_cpus = scene.datapath.per_cpu::<Traffic>(map::TRAFFIC, slot);
    of_cpus.iter().fold((0, 0), |(sent, received), traffic| {
        (
            sent + traffic.from_vm_packets,
            received + traffic.to_vm_packets,
        )
    })
}

/// The frame went on to this VM, and nothing of it changed but the MAC addresses.
#[track_caller]
fn check_carried(outcome: &Outcome, sent: &[u8], dst_mac: [u8; 6]) {
    assert_eq!(
        outcome.verdict,
        verdict::REDIRECT,
        "{}",
        hex(&outcome.bytes)
    );
    assert_eq!(outcome.mark, netagent_tests::prog_run::MARK);
    let mut expected = sent.to_vec();
    expected[..6].copy_from_slice(&dst_mac);
    expected[6..12].copy_from_slice(&GATEWAY_MAC);
    assert_eq!(hex(&outcome.bytes), hex(&expected));
}

/// Nothing of it went on: whoever sent it may have been told why.
#[track_caller]
fn check_refused(outcome: &Outcome, src_mac: [u8; 6]) {
    let is_told = outcome.verdict == verdict::REDIRECT
        && Packet::parse(&outcome.bytes)
            .is_some_and(|told| told.ends.dst_mac == src_mac && told.ends.src_mac == GATEWAY_MAC);
    assert!(
        is_told || outcome.verdict == verdict::DROP,
        "{}",
        hex(&outcome.bytes)
    );
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

/// A question and its answer pass all four places; gives the port under which the world knows the flow.
fn pass(scene: &mut Scene, kind: Kind, remote: IpAddr) -> u16 {
    let asked = question(kind, remote);
    check_carried(&scene.from_vm(&asked), &asked, RELAY_MAC);
    let left = seen(&scene.from_other(&message(kind, &forwarded(&to(remote)), PORTS, SYN)));
    let host: IpAddr = back(remote).dst;
    assert_eq!((left.ends.src, left.ends.dst), (host, remote));
    assert_eq!(
        left.ends.ttl,
        to(remote).ttl - 2,
        "the relay's hop and ours"
    );
    let answered = |ends: &Ends, port| match kind {
        Kind::Echo => packet::echo_reply(ends, (port, 1), b"echo"),
        Kind::Tcp | Kind::Udp => message(kind, ends, (PORTS.1, port), SYN | ACK),
    };
    let nat_port = left.ports.0;
    let came = seen(&scene.from_uplink(&answered(&back(remote), nat_port)));
    assert_eq!((came.ends.src, came.ends.dst), (remote, guest(remote)));
    assert_eq!(came.ends.dst_mac, RELAY_MAC, "to the relay first");
    let forwarded = answered(&returned(remote), PORTS.0);
    check_carried(&scene.from_other(&forwarded), &forwarded, GUEST_MAC);
    nat_port
}

fn tap() -> u32 {
    vm::ifindex(SLOT, 0)
}

fn protocol_of(kind: Kind) -> u8 {
    match kind {
        Kind::Tcp => protocol::TCP,
        Kind::Udp => protocol::UDP,
        Kind::Echo => protocol::ICMP,
    }
}
