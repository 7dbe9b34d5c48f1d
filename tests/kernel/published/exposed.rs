//! What the host reaches at a guest's own address: exposed ports.

use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::names::FROM_VM;
use netagent_common::net::{protocol, tcp_flag};
use netagent_common::vm::Interface;
use netagent_tests::packet::{self, Ends, Packet};
use netagent_tests::prog_run::{Context, MARK, verdict};
use netagent_tests::published::expose;
use netagent_tests::scene::{self, GATEWAY_V4, GUEST_MAC, GUEST_V6, HOST_V6, Scene, back, to};

use crate::published::{
    CLIENT, PORTS, PROTOCOLS, REMOTES, SYN_ACK, assert_refused, drops_of, guest, message,
    raise_policy_generation,
};

/// A packet of the host to the guest, from the gateway's own address.
fn of_host(remote: IpAddr) -> Ends {
    let gateway: IpAddr = if remote.is_ipv4() {
        GATEWAY_V4.into()
    } else {
        "fd00:a:b:5::1".parse().unwrap()
    };
    Ends {
        dst_mac: GUEST_MAC,
        ..back(remote).from(gateway).to(guest(remote))
    }
}

#[test]
fn the_host_reaches_exposed_ports_and_no_others() {
    for remote in [REMOTES[0], IpAddr::V6(HOST_V6)] {
        for protocol in PROTOCOLS {
            let mut scene = Scene::usual();
            let ends = if remote.is_ipv4() {
                of_host(remote)
            } else {
                back(remote).from(HOST_V6).to(GUEST_V6)
            };
            let to_port = |port, flags| message(protocol, &ends, (CLIENT, port), flags);
            assert_eq!(
                scene.from_host(&to_port(PORTS.1, tcp_flag::SYN)).verdict,
                verdict::DROP
            );
            expose(&mut scene.datapath, &scene::record(), (PORTS.1, protocol));
            let reached = scene.from_host(&to_port(PORTS.1, tcp_flag::SYN));
            assert_eq!(reached.verdict, verdict::NEXT);
            assert_eq!(
                scene
                    .from_host(&to_port(PORTS.1 + 1, tcp_flag::SYN))
                    .verdict,
                verdict::DROP
            );
            let answer = |port, flags| message(protocol, &to(ends.src), (port, CLIENT), flags);
            let answered = scene.from_vm(&answer(PORTS.1, SYN_ACK));
            assert_eq!(answered.verdict, verdict::NEXT, "the host's stack gets it");
            let stray = scene.from_vm(&answer(PORTS.1 + 1, SYN_ACK));
            assert_refused(&stray, "and nothing else");
        }
    }
}

/// A flow that the host opened to an exposed port, which is exposed no more; with the packets of either end.
fn exposed_no_more(protocol: u8) -> (Scene, Vec<u8>, Vec<u8>) {
    let mut scene = Scene::usual();
    let record = scene::record();
    expose(&mut scene.datapath, &record, (PORTS.1, protocol));
    let ends = of_host(REMOTES[0]);
    let knock = message(protocol, &ends, (CLIENT, PORTS.1), tcp_flag::SYN);
    assert_eq!(scene.from_host(&knock).verdict, verdict::NEXT);
    let answer = message(protocol, &to(ends.src), (PORTS.1, CLIENT), SYN_ACK);
    assert_eq!(scene.from_vm(&answer).verdict, verdict::NEXT);
    scene.datapath.up(0);
    let of_host = message(protocol, &ends, (CLIENT, PORTS.1), tcp_flag::ACK);
    raise_policy_generation(&mut scene);
    for _ in 0..2 {
        assert_eq!(scene.from_host(&of_host).verdict, verdict::NEXT, "still");
        assert_eq!(scene.from_vm(&answer).verdict, verdict::NEXT, "still");
    }
    assert_eq!(scene.open_flows(), 1);
    let gone = Interface {
        generation: record.generation + 1,
        ..record
    };
    expose(&mut scene.datapath, &gone, (PORTS.1, protocol));
    scene.datapath.set_interface(&Interface {
        policy_generation: record.policy_generation + 2,
        ..record
    });
    (scene, of_host, answer)
}

fn check_reset(bytes: &[u8], (src, dst): (IpAddr, IpAddr), ports: (u16, u16)) {
    packet::assert_checksums(bytes);
    let reset = Packet::parse(bytes).unwrap();
    assert_eq!((reset.ends.src, reset.ends.dst), (src, dst));
    assert_eq!(reset.ports, ports);
    assert_ne!(reset.kind & tcp_flag::RST, 0);
    assert!(reset.payload.is_empty());
}

#[test]
fn a_segment_of_the_guest_ends_what_the_host_opened_for_both() {
    let (mut scene, of_host, answer) = exposed_no_more(protocol::TCP);
    let ends = Packet::parse(&of_host).unwrap().ends;
    let outcome = scene.from_vm(&answer);
    assert_eq!(outcome.verdict, verdict::NEXT, "the host's stack gets it");
    check_reset(&outcome.bytes, (ends.dst, ends.src), (PORTS.1, CLIENT));
    assert_eq!(scene.told(0).ends.src, ends.src);
    assert_eq!(scene.open_flows(), 0);
    assert_eq!(drops_of(&mut scene, DropReason::Unsolicited), 1);
    assert_eq!(scene.from_host(&of_host).verdict, verdict::DROP);
}

#[test]
fn a_segment_of_the_host_ends_what_it_opened_for_both() {
    let (mut scene, of_host, _) = exposed_no_more(protocol::TCP);
    let ends = Packet::parse(&of_host).unwrap().ends;
    let outcome = scene.from_host(&of_host);
    assert_eq!(outcome.verdict, verdict::REDIRECT);
    assert_eq!(outcome.mark, MARK, "by which `from_vm` knows it");
    check_reset(&outcome.bytes, (ends.dst, ends.src), (PORTS.1, CLIENT));
    let guest = scene.told(0);
    assert_eq!((guest.ends.src, guest.ends.dst), (ends.src, ends.dst));
    assert_eq!(guest.ends.dst_mac, GUEST_MAC);
    assert_eq!(guest.ports, (CLIENT, PORTS.1));
    assert_ne!(guest.kind & tcp_flag::RST, 0);
    assert_eq!(scene.open_flows(), 0);
    assert_eq!(drops_of(&mut scene, DropReason::Unsolicited), 1);
    assert_eq!(scene.from_host(&of_host).verdict, verdict::DROP);
}

#[test]
fn the_host_is_told_by_an_error_where_it_was_no_connection() {
    let (mut scene, of_host, _) = exposed_no_more(protocol::UDP);
    let ends = Packet::parse(&of_host).unwrap().ends;
    let outcome = scene.from_host(&of_host);
    assert_eq!((outcome.verdict, outcome.mark), (verdict::REDIRECT, MARK));
    packet::assert_checksums(&outcome.bytes);
    let told = Packet::parse(&outcome.bytes).unwrap();
    assert_eq!((told.ends.src, told.ends.dst), (ends.dst, ends.src));
    assert_eq!(told.protocol, protocol::ICMP);
    assert_eq!(scene.open_flows(), 0);
    assert_eq!(drops_of(&mut scene, DropReason::Unsolicited), 1);
}

#[test]
fn what_the_datapath_tells_the_host_reaches_it_and_nothing_that_a_guest_sends_is_taken_for_it() {
    let mut scene = Scene::usual();
    let ends = of_host(REMOTES[0]);
    let reset = message(
        protocol::TCP,
        &to(ends.src),
        (PORTS.1, CLIENT),
        tcp_flag::RST,
    );
    let marked = Context {
        mark: MARK,
        ..scene::FROM_VM
    };
    let outcome = scene.datapath.run(FROM_VM, &reset, marked);
    assert_eq!((outcome.verdict, outcome.mark), (verdict::NEXT, 0));
    assert_eq!(scene.from_vm(&reset).verdict, verdict::DROP);
}
