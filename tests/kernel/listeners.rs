//! Listeners of the host that the configuration opens to guests (P-7, `policy.allow_host_ports`).

use std::net::{IpAddr, Ipv4Addr};

use netagent_common::drop::DropReason;
use netagent_common::names::COLLECT_FLOWS;
use netagent_common::net::{protocol, tcp_flag};
use netagent_common::policy::{PolicyId, RouteKind, Verdict, policy_flag};
use netagent_common::vm::Interface;
use netagent_tests::fragment::fragments;
use netagent_tests::packet::{self, Ends, Packet, Segment};
use netagent_tests::prog_run::{MARK, Sizes, verdict};
use netagent_tests::published::{Publication, close_host_port, open_host_port, publish};
use netagent_tests::scene::{
    self, GATEWAY_V4, HOST_V4, HOST_V6, OTHER_SLOT, REMOTE_V4, SLOT, Scene, to,
};

use crate::drops::is_told;

const PROTOCOLS: [u8; 2] = [protocol::TCP, protocol::UDP];
/// Port of the guest, and of the listener.
const PORTS: (u16, u16) = (51_000, 8_080);
/// A port at which nothing is open.
const CLOSED: (u16, u16) = (51_000, 8_081);
const SYN_ACK: u8 = tcp_flag::SYN | tcp_flag::ACK;

/// The gateway's addresses and the host's.
fn addresses() -> [IpAddr; 4] {
    [
        GATEWAY_V4.into(),
        scene::gateway_v6().into(),
        HOST_V4.into(),
        HOST_V6.into(),
    ]
}

/// Why nothing else is reached there.
fn closed(address: IpAddr) -> DropReason {
    if [IpAddr::V4(HOST_V4), HOST_V6.into()].contains(&address) {
        DropReason::HostAddress
    } else {
        DropReason::GatewayClosed
    }
}

fn open_ports(scene: &mut Scene) {
    for protocol in PROTOCOLS {
        open_host_port(&mut scene.datapath, (PORTS.1, protocol));
    }
}

/// A scene in which the port is open over TCP and UDP.
fn opened() -> Scene {
    let mut scene = Scene::usual();
    open_ports(&mut scene);
    scene
}

fn message(number: u8, ends: &Ends, ports: (u16, u16), flags: u8) -> Vec<u8> {
    if number == protocol::UDP {
        return packet::udp(ends, ports, b"datagram");
    }
    let segment = Segment {
        src_port: ports.0,
        dst_port: ports.1,
        sequence: 1_000,
        acknowledgement: 2_000,
        flags,
    };
    packet::tcp(ends, segment, b"segment")
}

fn knock(number: u8, address: IpAddr) -> Vec<u8> {
    message(number, &to(address), PORTS, tcp_flag::SYN)
}

/// What the listener answers.
fn answer(number: u8, address: IpAddr, flags: u8) -> Vec<u8> {
    let back = (PORTS.1, PORTS.0);
    message(number, &to(address).reversed(), back, flags)
}

#[track_caller]
fn assert_reached(scene: &mut Scene, bytes: &[u8]) {
    let outcome = scene.from_vm(bytes);
    assert_eq!(
        outcome.verdict,
        verdict::NEXT,
        "{:?}",
        scene.datapath.drops()
    );
    packet::assert_checksums(&outcome.bytes);
    let mut expected = Packet::parse(bytes).unwrap();
    expected.ends.ttl = 1;
    let reached = Packet::parse(&outcome.bytes).unwrap();
    assert_eq!(reached, expected, "no address changes");
}

fn counted(scene: &mut Scene, reason: DropReason) -> u64 {
    let drops = scene.datapath.drops();
    drops.get(&(SLOT, reason)).copied().unwrap_or(0)
}

/// It was refused for this reason, and the guest told.
#[track_caller]
fn assert_refused(scene: &mut Scene, reason: DropReason, bytes: &[u8]) {
    let before = counted(scene, reason);
    let outcome = scene.from_vm(bytes);
    assert!(is_told(&outcome), "{reason:?}: verdict {}", outcome.verdict);
    assert_eq!(counted(scene, reason), before + 1, "{reason:?}");
}

/// A flow that the listener answered.
fn established(scene: &mut Scene, number: u8, address: IpAddr) {
    let before = scene.open_flows();
    assert_reached(scene, &knock(number, address));
    let answered = scene.from_host(&answer(number, address, SYN_ACK));
    assert_eq!(answered.verdict, verdict::NEXT, "{address}");
    assert_eq!(scene.open_flows(), before + 1);
}

/// Puts a record in force, a generation later than the last.
fn set(scene: &mut Scene, generation: u32, change: impl FnOnce(&mut Interface)) {
    let mut record = scene::record();
    record.policy_generation += generation;
    change(&mut record);
    scene.datapath.set_interface(&record);
}

/// Puts a policy in force whose lists say this of everything.
fn put(scene: &mut Scene, generation: u32, says: Verdict) {
    let id: PolicyId = [generation as u8; 16];
    let everything = ["0.0.0.0", "::"].map(|address| ((address.parse().unwrap(), 0), says));
    scene.datapath.set_policy(id, &everything);
    set(scene, generation, |record| record.policy = id);
}

#[test]
fn p7_a_guest_reaches_an_open_port_at_its_gateway_and_at_the_hosts_addresses() {
    let mut scene = opened();
    for address in addresses() {
        for number in PROTOCOLS {
            established(&mut scene, number, address);
            let more = message(number, &to(address), PORTS, tcp_flag::ACK);
            assert_reached(&mut scene, &more);
            let answered = scene.from_host(&answer(number, address, tcp_flag::ACK));
            assert_eq!(answered.verdict, verdict::NEXT);
        }
    }
    assert_eq!(scene.open_flows(), 8);
    assert!(scene.datapath.drops().is_empty());
}

#[test]
fn p7_what_is_not_open_stays_closed() {
    let mut scene = Scene::usual();
    open_host_port(&mut scene.datapath, (PORTS.1, protocol::TCP));
    for address in addresses() {
        let refused = [
            message(protocol::TCP, &to(address), CLOSED, tcp_flag::SYN),
            message(protocol::UDP, &to(address), CLOSED, 0),
            // Over the other protocol.
            message(protocol::UDP, &to(address), PORTS, 0),
        ];
        for bytes in refused {
            assert_refused(&mut scene, closed(address), &bytes);
        }
    }
    assert_eq!(scene.open_flows(), 0);
}

#[test]
fn p7_nobody_elses_gateway_and_no_other_address_is_reached_by_an_open_port() {
    let mut scene = opened();
    let mut other = scene::record();
    other.gateway_v4 = [172, 16, 0, 25];
    other.instance_gateway_v4 = other.gateway_v4;
    other.addresses_v4[0] = [172, 16, 0, 26];
    scene.add_other(other);
    for (address, reason) in [
        ("172.16.0.25", DropReason::OtherInstance),
        ("172.16.0.26", DropReason::OtherInstance),
        ("fd00:a:b:6::2", DropReason::OtherInstance),
        ("127.0.0.1", DropReason::AlwaysDenied),
        ("169.254.169.254", DropReason::AlwaysDenied),
        ("fe80::2", DropReason::AlwaysDenied),
        ("10.9.0.1", DropReason::NotUplink),
    ] {
        let address: IpAddr = address.parse().unwrap();
        for number in PROTOCOLS {
            assert_refused(&mut scene, reason, &knock(number, address));
        }
    }
    assert_eq!(scene.open_flows(), 0);
    // The world is as far as before.
    let left = scene.from_vm(&knock(protocol::TCP, REMOTE_V4.into()));
    assert_eq!(left.verdict, verdict::REDIRECT);
}

#[test]
fn p7_a_gateway_that_the_guest_was_told_and_that_is_not_its_own_leads_to_no_listener() {
    // Another instance's, one behind an interface that is no uplink, a metadata address.
    for told in ["172.16.0.5", "10.9.0.7", "100.100.100.200"] {
        let told: Ipv4Addr = told.parse().unwrap();
        let mut record = scene::record();
        record.instance_gateway_v4 = told.octets();
        let mut scene = Scene::new(Sizes::default(), &record);
        open_ports(&mut scene);
        for number in PROTOCOLS {
            let bytes = knock(number, told.into());
            assert_refused(&mut scene, DropReason::GatewayClosed, &bytes);
        }
        assert_reached(&mut scene, &knock(protocol::TCP, GATEWAY_V4.into()));
    }
}

#[test]
fn p5_what_goes_to_a_listener_goes_no_further_than_the_host() {
    let mut scene = opened();
    for address in addresses() {
        for number in PROTOCOLS {
            let outcome = scene.from_vm(&knock(number, address));
            assert_eq!(outcome.verdict, verdict::NEXT);
            packet::assert_checksums(&outcome.bytes);
            let packet = Packet::parse(&outcome.bytes).unwrap();
            assert_eq!(packet.ends.ttl, 1, "no stack forwards it");
        }
    }
}

#[test]
fn a_super_frame_of_very_many_segments_reaches_no_listener() {
    let mut scene = opened();
    for address in addresses() {
        let bytes = packet::udp(&to(address), PORTS, &[7; 1_400]);
        let outcome = scene.super_frame_from_vm(&bytes, 1);
        assert_eq!(outcome.verdict, verdict::DROP);
    }
    assert_eq!(counted(&mut scene, DropReason::TooManySegments), 4);
}

#[test]
fn p7_the_gateways_own_services_come_before_an_open_port() {
    let mut scene = opened();
    for number in PROTOCOLS {
        open_host_port(&mut scene.datapath, (53, number));
    }
    for gateway in [IpAddr::V4(GATEWAY_V4), scene::gateway_v6().into()] {
        let query = message(protocol::UDP, &to(gateway), (4_000, 53), 0);
        let outcome = scene.from_vm(&query);
        assert_eq!(outcome.verdict, verdict::REDIRECT, "the resolver's");
        let ping = packet::echo_request(&to(gateway), (1, 1), b"ping");
        assert_eq!(scene.from_vm(&ping).verdict, verdict::REDIRECT);
    }
    assert_eq!(scene.open_flows(), 0);
    let at_host = message(protocol::UDP, &to(HOST_V4), (4_000, 53), 0);
    assert_reached(&mut scene, &at_host);
}

#[test]
fn p7_a_published_port_wins_over_a_listener() {
    let mut scene = opened();
    scene.add_other(scene::record());
    let other = Interface {
        slot: OTHER_SLOT,
        ..scene::record()
    };
    for everywhere in ["0.0.0.0", "::"] {
        let publication = Publication {
            id: 1,
            protocol: protocol::TCP,
            address: everywhere.parse().unwrap(),
            port: PORTS.1,
            guest_port: 80,
            limited: false,
        };
        publish(&mut scene.datapath, &other, &publication);
    }
    for address in addresses() {
        let bytes = knock(protocol::TCP, address);
        if closed(address) == DropReason::GatewayClosed {
            // Nothing is published there, and what listens is what holds the port.
            assert_refused(&mut scene, DropReason::GatewayClosed, &bytes);
        } else {
            assert_eq!(scene.from_vm(&bytes).verdict, verdict::REDIRECT);
        }
        assert_reached(&mut scene, &knock(protocol::UDP, address));
    }
}

#[test]
fn p3_the_lists_judge_the_address_as_it_is_written() {
    let mut scene = opened();
    let verdicts = [
        (Verdict::Default, None),
        (Verdict::NotAllowed, Some(DropReason::NotAllowed)),
        (Verdict::Allowed, None),
        (Verdict::Denied, Some(DropReason::DeniedCidr)),
        (Verdict::AlwaysDenied, Some(DropReason::AlwaysDenied)),
    ];
    for (generation, (says, reason)) in (1..).zip(verdicts) {
        put(&mut scene, generation, says);
        for address in addresses() {
            // Another flow than those that were allowed.
            let ports = (PORTS.0 + generation as u16, PORTS.1);
            let bytes = message(protocol::TCP, &to(address), ports, tcp_flag::SYN);
            match reason {
                Some(reason) => assert_refused(&mut scene, reason, &bytes),
                None => assert_reached(&mut scene, &bytes),
            }
        }
    }
    set(&mut scene, 9, |record| {
        record.policy_flags = policy_flag::DENY_ALL;
    });
    for address in addresses() {
        for number in PROTOCOLS {
            assert_refused(&mut scene, DropReason::DenyAll, &knock(number, address));
        }
    }
}

#[test]
fn p14_audit_counts_once_and_lets_the_listener_be_reached() {
    let mut scene = opened();
    put(&mut scene, 1, Verdict::Denied);
    set(&mut scene, 1, |record| {
        record.policy = [1; 16];
        record.policy_flags = policy_flag::AUDIT | policy_flag::DENY_ALL;
    });
    for (count, address) in (1..).zip(addresses()) {
        established(&mut scene, protocol::TCP, address);
        let audited = scene.datapath.audited();
        assert_eq!(audited.get(&(SLOT, DropReason::DenyAll)), Some(&count));
        assert_eq!(audited.get(&(SLOT, DropReason::DeniedCidr)), Some(&count));
    }
    // What the configuration does not open no audit lets through.
    for address in addresses() {
        let bytes = message(protocol::TCP, &to(address), CLOSED, tcp_flag::SYN);
        assert_refused(&mut scene, closed(address), &bytes);
    }
}

#[test]
fn p9_a_flow_that_is_permitted_goes_on_and_one_that_is_not_ends_for_both_ends() {
    let closes: [fn(&mut Scene, u32); 3] = [
        |scene, generation| put(scene, generation, Verdict::Denied),
        |scene, generation| {
            set(scene, generation, |record| {
                record.policy_flags = policy_flag::DENY_ALL;
            });
        },
        |scene, generation| {
            close_host_port(&mut scene.datapath, (PORTS.1, protocol::TCP));
            set(scene, generation, |_| {});
        },
    ];
    let mut scene = opened();
    scene.datapath.up(0);
    let mut generations = 1..;
    for address in addresses() {
        let more = message(protocol::TCP, &to(address), PORTS, tcp_flag::ACK);
        let of_listener = answer(protocol::TCP, address, tcp_flag::ACK);
        for close in closes {
            for listener_speaks_first in [false, true] {
                open_ports(&mut scene);
                put(&mut scene, generations.next().unwrap(), Verdict::Default);
                established(&mut scene, protocol::TCP, address);
                put(&mut scene, generations.next().unwrap(), Verdict::Allowed);
                if listener_speaks_first {
                    assert_eq!(scene.from_host(&of_listener).verdict, verdict::NEXT);
                } else {
                    assert_reached(&mut scene, &more);
                }
                assert_eq!(scene.open_flows(), 1);
                close(&mut scene, generations.next().unwrap());
                if listener_speaks_first {
                    check_ended_by_listener(&mut scene, address, &of_listener);
                } else {
                    check_ended(&mut scene, address, &more);
                }
            }
        }
    }
}

/// The segment of the listener ends the flow: the guest is told by a copy, the listener by what its host receives.
fn check_ended_by_listener(scene: &mut Scene, address: IpAddr, segment: &[u8]) {
    let outcome = scene.from_host(segment);
    assert_eq!((outcome.verdict, outcome.mark), (verdict::REDIRECT, MARK));
    packet::assert_checksums(&outcome.bytes);
    let told = Packet::parse(&outcome.bytes).unwrap();
    assert_eq!((told.ends.src, told.ends.dst), (to(address).src, address));
    assert_eq!(told.ports, PORTS);
    assert_ne!(told.kind & tcp_flag::RST, 0);
    let guest = scene.told(0);
    assert_eq!((guest.ends.src, guest.ends.dst), (address, to(address).src));
    assert_ne!(guest.kind & tcp_flag::RST, 0);
    assert_eq!(scene.open_flows(), 0);
    assert_eq!(scene.from_host(segment).verdict, verdict::DROP);
}

/// A segment of the guest resets both ends.
#[track_caller]
fn check_ended(scene: &mut Scene, address: IpAddr, segment: &[u8]) {
    let before: u64 = scene.datapath.drops().values().sum();
    let outcome = scene.from_vm(segment);
    assert_eq!(outcome.verdict, verdict::NEXT, "{address}");
    packet::assert_checksums(&outcome.bytes);
    let listener = Packet::parse(&outcome.bytes).unwrap();
    assert_ne!(listener.kind & tcp_flag::RST, 0);
    assert_eq!((listener.ends.dst, listener.ports), (address, PORTS));
    let guest = scene.told(0);
    assert_ne!(guest.kind & tcp_flag::RST, 0);
    assert_eq!(guest.ends.src, address);
    assert_eq!(scene.open_flows(), 0);
    let after: u64 = scene.datapath.drops().values().sum();
    assert_eq!(after, before + 1);
    // The listener has nothing more of it.
    let late = scene.from_host(&answer(protocol::TCP, address, tcp_flag::ACK));
    assert_eq!(late.verdict, verdict::DROP);
}

#[test]
fn p9_a_datagram_to_a_port_that_is_open_no_more_is_refused_and_its_flow_ends() {
    let mut scene = opened();
    for address in addresses() {
        established(&mut scene, protocol::UDP, address);
    }
    close_host_port(&mut scene.datapath, (PORTS.1, protocol::UDP));
    set(&mut scene, 1, |_| {});
    for address in addresses() {
        let bytes = knock(protocol::UDP, address);
        assert_refused(&mut scene, closed(address), &bytes);
    }
    assert_eq!(scene.open_flows(), 0);
}

#[test]
fn a_flow_ends_when_its_address_is_the_hosts_no_more() {
    let mut scene = opened();
    for address in [IpAddr::V4(HOST_V4), HOST_V6.into()] {
        established(&mut scene, protocol::UDP, address);
        let left = scene::route(RouteKind::NotUplink, address.is_ipv4(), false);
        scene.change_route(address, &left);
        let bytes = knock(protocol::UDP, address);
        assert_refused(&mut scene, DropReason::NotUplink, &bytes);
        assert_eq!(scene.open_flows(), 0);
    }
}

#[test]
fn p7_what_a_listener_sends_outside_a_flow_is_dropped() {
    let mut scene = opened();
    for address in addresses() {
        for number in PROTOCOLS {
            for flags in [tcp_flag::SYN, SYN_ACK, tcp_flag::ACK, tcp_flag::RST] {
                let unasked = scene.from_host(&answer(number, address, flags));
                assert_eq!(unasked.verdict, verdict::DROP, "{address}");
            }
            established(&mut scene, number, address);
            for ports in [(PORTS.1, PORTS.0 + 1), (PORTS.1 + 1, PORTS.0)] {
                let stray = message(number, &to(address).reversed(), ports, SYN_ACK);
                assert_eq!(scene.from_host(&stray).verdict, verdict::DROP);
            }
        }
    }
}

#[test]
fn a_closed_port_of_the_host_is_told_to_the_guest() {
    let mut scene = opened();
    for (generation, address) in (1..).zip(addresses()) {
        assert_reached(&mut scene, &knock(protocol::TCP, address));
        let reset = tcp_flag::RST | tcp_flag::ACK;
        let told = scene.from_host(&answer(protocol::TCP, address, reset));
        assert_eq!(told.verdict, verdict::NEXT);

        let ends = to(address).reversed();
        let unreachable = crate::quotes::reports(address.is_ipv4())[3];
        let error = |about: &[u8]| crate::quotes::error(&ends, unreachable, (about, 1_000));
        let asked = knock(protocol::UDP, address);
        let early = scene.from_host(&error(&asked));
        assert_eq!(early.verdict, verdict::DROP, "nothing was asked");
        assert_reached(&mut scene, &asked);
        let told = scene.from_host(&error(&asked));
        assert_eq!(told.verdict, verdict::NEXT, "{address}");

        let of_another = message(protocol::UDP, &to(address), (PORTS.0 + 1, PORTS.1), 0);
        for stray in [
            error(&of_another),
            // From another address than the one that was asked, and about what the guest did not send.
            crate::quotes::error(&ends.from(another(address)), unreachable, (&asked, 1_000)),
            error(&message(protocol::UDP, &ends, (PORTS.1, PORTS.0), 0)),
        ] {
            let before = counted(&mut scene, DropReason::IcmpError);
            assert_eq!(scene.from_host(&stray).verdict, verdict::DROP);
            assert_eq!(counted(&mut scene, DropReason::IcmpError), before + 1);
        }
        let redirect = if address.is_ipv4() { (5, 1) } else { (137, 0) };
        let redirect = crate::quotes::error(&ends, (redirect, [0; 4]), (&asked, 1_000));
        assert_eq!(scene.from_host(&redirect).verdict, verdict::DROP);
        set(&mut scene, generation, |_| {});
        assert_eq!(scene.from_host(&error(&asked)).verdict, verdict::DROP);
    }
}

/// Another address of the host.
fn another(address: IpAddr) -> IpAddr {
    let others = addresses().into_iter();
    let mut others = others.filter(|one| *one != address && one.is_ipv4() == address.is_ipv4());
    others.next().unwrap()
}

#[test]
fn p13_flows_to_listeners_count_and_time_out_as_others_do() {
    let mut record = scene::record();
    record.flow_limit = 2;
    let mut scene = Scene::new(Sizes::default(), &record);
    open_ports(&mut scene);
    let from = |port| message(protocol::UDP, &to(HOST_V4), (port, PORTS.1), 0);
    for port in [1, 2] {
        assert_reached(&mut scene, &from(port));
    }
    assert_refused(&mut scene, DropReason::FlowLimit, &from(3));
    assert_eq!(scene.open_flows(), 2);
    scene.time_out_flows(1);
    let (collected, _) = scene.datapath.collect(COLLECT_FLOWS);
    assert_eq!((collected.removed, collected.failed), (1, 0));
    assert_eq!(scene.open_flows(), 1);
    assert_reached(&mut scene, &from(3));
}

#[test]
fn an_address_to_which_the_host_has_no_route_is_refused() {
    // The network is the guest's own, and answers would go astray in it.
    let mut scene = opened();
    let strange: IpAddr = "fd00:a:b:5::77".parse().unwrap();
    let bytes = message(
        protocol::TCP,
        &to(HOST_V6).from(strange),
        PORTS,
        tcp_flag::SYN,
    );
    assert_refused(&mut scene, DropReason::HostAddress, &bytes);
    assert_eq!(scene.open_flows(), 0);
}

#[test]
fn pieces_of_a_datagram_reach_no_listener() {
    let mut scene = opened();
    for address in addresses() {
        let whole = packet::udp(&to(address), PORTS, &[7; 2_400]);
        for piece in fragments(&whole, 1_000, 9) {
            let outcome = scene.from_vm(&piece);
            assert_ne!(outcome.verdict, verdict::NEXT, "{address}");
        }
        assert_eq!(scene.open_flows(), 0);
    }
}
