//! What others open towards a client: at published and exposed ports, and by its relay (R-1, R-5, P-7).

use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::net::tcp_flag::{ACK, SYN};
use netagent_common::policy::{PolicyId, Verdict};
use netagent_common::vm::Interface;
use netagent_tests::packet::Ends;
use netagent_tests::prog_run::{MARK, verdict};
use netagent_tests::published::{Publication, expose, publish, unpublish};
use netagent_tests::scene::{GUEST_MAC, HOST_V4, HOST_V6, back, to};

use super::{
    Kind, LEG_SLOT, RELAY_MAC, REMOTES, Scene, check_carried, client, drops_of, forwarded, guest,
    leg_of, message, protocol_of, relayed, returned, seen,
};

const CLIENT_PORT: u16 = 40_000;
const HOST_PORT: u16 = 8_080;
const GUEST_PORT: u16 = 80;
const KINDS: [Kind; 2] = [Kind::Tcp, Kind::Udp];

fn publication(kind: Kind, remote: IpAddr) -> Publication {
    Publication {
        id: 1,
        protocol: protocol_of(kind),
        address: back(remote).dst,
        port: HOST_PORT,
        guest_port: GUEST_PORT,
        limited: false,
    }
}

fn published(kind: Kind, remote: IpAddr) -> Scene {
    let mut scene = relayed();
    publish(
        &mut scene.datapath,
        &leg_of(&client()),
        &publication(kind, remote),
    );
    scene
}

/// Knocks, and passes question and answer through the relay.
fn knock(scene: &mut Scene, kind: Kind, remote: IpAddr) {
    let ports = (CLIENT_PORT, HOST_PORT);
    let came = seen(&scene.from_uplink(&message(kind, &back(remote), ports, SYN)));
    assert_eq!((came.ends.src, came.ends.dst), (remote, guest(remote)));
    assert_eq!(came.ends.dst_mac, RELAY_MAC, "the relay first");
    let to_client = message(kind, &returned(remote), (CLIENT_PORT, GUEST_PORT), SYN);
    check_carried(&scene.from_other(&to_client), &to_client, GUEST_MAC);
    let answer = message(kind, &to(remote), (GUEST_PORT, CLIENT_PORT), SYN | ACK);
    check_carried(&scene.from_vm(&answer), &answer, RELAY_MAC);
    let ends = forwarded(&to(remote));
    let on = message(kind, &ends, (GUEST_PORT, CLIENT_PORT), SYN | ACK);
    let left = seen(&scene.from_other(&on));
    assert_eq!(left.ends.src, back(remote).dst);
    assert_eq!(left.ports, (HOST_PORT, CLIENT_PORT));
}

#[test]
fn a_published_port_of_a_client_is_reached_through_its_relay() {
    for remote in REMOTES {
        for kind in KINDS {
            let mut scene = published(kind, remote);
            knock(&mut scene, kind, remote);
            knock(&mut scene, kind, remote);
        }
    }
}

#[test]
fn the_relay_opens_it_for_nobody_who_did_not_knock() {
    for remote in REMOTES {
        for kind in KINDS {
            let mut scene = published(kind, remote);
            let forged = message(kind, &returned(remote), (CLIENT_PORT, GUEST_PORT), SYN);
            assert_eq!(scene.from_other(&forged).verdict, verdict::DROP);
            knock(&mut scene, kind, remote);
            for ports in [(CLIENT_PORT, GUEST_PORT + 1), (CLIENT_PORT + 1, GUEST_PORT)] {
                let other = message(kind, &returned(remote), ports, SYN);
                assert_eq!(scene.from_other(&other).verdict, verdict::DROP);
            }
            assert_eq!(drops_of(&mut scene, LEG_SLOT, DropReason::Unsolicited), 3);
        }
    }
}

#[test]
fn a_port_that_is_no_longer_published_ends_both_halves() {
    for remote in REMOTES {
        let kind = Kind::Tcp;
        let mut scene = published(kind, remote);
        knock(&mut scene, kind, remote);
        unpublish(&mut scene.datapath, &publication(kind, remote));
        let record = Interface {
            policy_generation: client().policy_generation + 1,
            ..client()
        };
        scene.datapath.set_interface(&leg_of(&record));
        scene.datapath.set_interface(&record);
        for device in [0, 3] {
            scene.datapath.up(device);
        }
        let ports = (CLIENT_PORT, HOST_PORT);
        let outcome = scene.from_uplink(&message(kind, &back(remote), ports, ACK));
        let told = seen(&outcome);
        assert_ne!(told.kind & netagent_common::net::tcp_flag::RST, 0);
        assert_eq!(
            scene.told(3).ends.dst_mac,
            RELAY_MAC,
            "and the client's side"
        );
        let ends = returned(remote);
        let reset = message(
            kind,
            &ends,
            (CLIENT_PORT, GUEST_PORT),
            netagent_common::net::tcp_flag::RST,
        );
        // Its near half has no far half any more.
        assert_eq!(scene.from_other(&reset).verdict, verdict::DROP);
    }
}

#[test]
fn the_client_s_denied_networks_keep_their_peers_out() {
    const POLICY: PolicyId = [3; 16];
    for remote in REMOTES {
        let kind = Kind::Tcp;
        let mut scene = published(kind, remote);
        scene.datapath.set_interface(&Interface {
            policy: POLICY,
            ..client()
        });
        scene.datapath.set_policy(
            POLICY,
            &[
                (("0.0.0.0".parse().unwrap(), 0), Verdict::Denied),
                (("::".parse().unwrap(), 0), Verdict::Denied),
            ],
        );
        let ports = (CLIENT_PORT, HOST_PORT);
        seen(&scene.from_uplink(&message(kind, &back(remote), ports, SYN)));
        let on = message(kind, &returned(remote), (CLIENT_PORT, GUEST_PORT), SYN);
        assert_eq!(scene.from_other(&on).verdict, verdict::DROP);
        assert_eq!(drops_of(&mut scene, LEG_SLOT, DropReason::DeniedCidr), 1);
    }
}

#[test]
fn the_host_reaches_exposed_ports_through_the_relay_and_is_answered_through_it() {
    for host in [IpAddr::V4(HOST_V4), IpAddr::V6(HOST_V6)] {
        for kind in KINDS {
            let mut scene = relayed();
            let leg = leg_of(&client());
            expose(&mut scene.datapath, &leg, (GUEST_PORT, protocol_of(kind)));
            let ends = Ends {
                dst_mac: GUEST_MAC,
                ..back(host).to(guest(host))
            };
            let ports = (CLIENT_PORT, GUEST_PORT);
            let outcome = scene.from_host(&message(kind, &ends, ports, SYN));
            assert_eq!((outcome.verdict, outcome.mark), (verdict::REDIRECT, MARK));
            let came = seen(&outcome);
            assert_eq!((came.ends.src, came.ends.dst_mac), (host, RELAY_MAC));
            let on = message(kind, &returned(host), ports, SYN);
            check_carried(&scene.from_other(&on), &on, GUEST_MAC);
            let answer = message(kind, &to(host), (GUEST_PORT, CLIENT_PORT), SYN | ACK);
            check_carried(&scene.from_vm(&answer), &answer, RELAY_MAC);
            let back = message(
                kind,
                &forwarded(&to(host)),
                (GUEST_PORT, CLIENT_PORT),
                SYN | ACK,
            );
            let outcome = scene.from_other(&back);
            assert_eq!(outcome.verdict, verdict::NEXT, "the host's stack gets it");
            // What is not exposed stays closed.
            let ports = (CLIENT_PORT, GUEST_PORT + 1);
            let other = scene.from_host(&message(kind, &ends, ports, SYN));
            assert_eq!(other.verdict, verdict::DROP);
        }
    }
}
