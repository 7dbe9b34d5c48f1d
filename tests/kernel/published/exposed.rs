//! What the host reaches at a guest's own address: exposed ports.

use std::net::IpAddr;

use netagent_common::net::{protocol, tcp_flag};
use netagent_common::vm::Interface;
use netagent_tests::packet::Ends;
use netagent_tests::prog_run::verdict;
use netagent_tests::published::expose;
use netagent_tests::scene::{self, GATEWAY_V4, GUEST_V6, HOST_V6, Scene, back, to};

use crate::published::{
    CLIENT, PORTS, PROTOCOLS, REMOTES, SYN_ACK, assert_refused, guest, message,
    raise_policy_generation,
};

/// A packet of the host to the guest, from the gateway's own address.
fn of_host(remote: IpAddr) -> Ends {
    let gateway: IpAddr = if remote.is_ipv4() {
        GATEWAY_V4.into()
    } else {
        "fd00:a:b:5::1".parse().unwrap()
    };
    back(remote).from(gateway).to(guest(remote))
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

#[test]
fn what_the_host_opened_ends_when_the_port_is_exposed_no_more() {
    let mut scene = Scene::usual();
    let record = scene::record();
    expose(&mut scene.datapath, &record, (PORTS.1, protocol::TCP));
    let of_host = message(
        protocol::TCP,
        &of_host(REMOTES[0]),
        (CLIENT, PORTS.1),
        tcp_flag::SYN,
    );
    assert_eq!(scene.from_host(&of_host).verdict, verdict::NEXT);
    let answer = message(protocol::TCP, &to(GATEWAY_V4), (PORTS.1, CLIENT), SYN_ACK);
    raise_policy_generation(&mut scene);
    assert_eq!(
        scene.from_vm(&answer).verdict,
        verdict::NEXT,
        "it is exposed still"
    );
    expose(
        &mut scene.datapath,
        &Interface {
            generation: record.generation + 1,
            ..record
        },
        (PORTS.1, protocol::TCP),
    );
    scene.datapath.set_interface(&Interface {
        policy_generation: record.policy_generation + 2,
        ..record
    });
    assert_refused(&scene.from_vm(&answer), "it is exposed no more");
    assert_eq!(scene.from_host(&of_host).verdict, verdict::DROP);
}
