//! Whose port it is where a flow lost its reverse entry, and another took the port.

use std::net::IpAddr;

use netagent_common::names::COLLECT_FLOWS;
use netagent_common::net::protocol;
use netagent_common::policy::RouteKind;
use netagent_tests::packet::Packet;
use netagent_tests::prog_run::{Sizes, verdict};
use netagent_tests::scene::{self, Scene, back, to};

use crate::drops::{REMOTES, is_told};
use crate::nat::{Build, PROTOCOLS, check_both_ways};

/// The guest's port of the flow that loses its port; outside the range, so that it gets another one.
const LOSER: u16 = 4_000;

/// Without endpoint-independent mappings, by which a port stays its guest's even where a flow's entry vanished.
fn unmapped() -> Scene {
    let sizes = Sizes {
        eim_ports: 0,
        ..Sizes::default()
    };
    Scene::new(sizes, &scene::record())
}

/// A flow of [`LOSER`], and one of another port of the guest that took its port while the entry was missing.
/// Returns that port: it is the other's own.
fn lose_port(scene: &mut Scene, remote: IpAddr, protocol: (Build, Build)) -> u16 {
    let lost = check_both_ways(scene, remote, protocol, LOSER);
    scene.remove_reverses();
    let taken = check_both_ways(scene, remote, protocol, lost);
    assert_eq!(taken, lost, "a free port in the range is kept");
    lost
}

#[test]
fn a_flow_whose_reverse_entry_vanished_gets_it_back() {
    for remote in REMOTES {
        for protocol in PROTOCOLS {
            let mut scene = Scene::usual();
            let port = check_both_ways(&mut scene, remote, protocol, LOSER);
            scene.remove_reverses();
            scene.age_flows(LOSER);
            assert_eq!(
                check_both_ways(&mut scene, remote, protocol, LOSER),
                port,
                "its port is free and stays its own"
            );
            assert_eq!(scene.holders(port), [LOSER]);
        }
    }
}

#[test]
fn a_flow_whose_port_is_anothers_by_now_gets_a_new_one() {
    for remote in REMOTES {
        for protocol in PROTOCOLS {
            let mut scene = unmapped();
            let lost = lose_port(&mut scene, remote, protocol);
            scene.age_flows(LOSER);
            let new = check_both_ways(&mut scene, remote, protocol, LOSER);
            assert_ne!(new, lost);
            assert_eq!(
                check_both_ways(&mut scene, remote, protocol, lost),
                lost,
                "the other keeps it"
            );
            assert_eq!(scene.holders(lost), [lost]);
            assert_eq!(scene.open_flows(), 2, "none is counted twice");
        }
    }
}

#[test]
fn a_flow_that_times_out_does_not_take_anothers_port_along() {
    for remote in REMOTES {
        for protocol in PROTOCOLS {
            let mut scene = unmapped();
            let lost = lose_port(&mut scene, remote, protocol);
            scene.time_out_flows(LOSER);
            let (collected, _) = scene.datapath.collect(COLLECT_FLOWS);
            assert_eq!(collected.removed, 1, "the flow without a port is too old");
            assert_eq!(scene.holders(lost), [lost]);
            assert_eq!(check_both_ways(&mut scene, remote, protocol, lost), lost);
        }
    }
}

#[test]
fn a_flow_that_the_routes_end_does_not_take_anothers_port_along() {
    for remote in REMOTES {
        for (sent, answered) in PROTOCOLS {
            let mut scene = unmapped();
            let lost = lose_port(&mut scene, remote, (sent, answered));
            let closed = scene::route(RouteKind::NotUplink, remote.is_ipv4(), false);
            scene.change_route(remote, &closed);
            let outcome = scene.from_vm(&sent(&to(remote), (LOSER, 53), b"closed"));
            assert!(is_told(&outcome));
            assert_eq!(scene.open_flows(), 1, "the flow ended");
            assert_eq!(scene.holders(lost), [lost], "the other's port stays");
            let answer = answered(&back(remote), (53, lost), b"for the other");
            let into = scene.from_uplink(&answer);
            assert_eq!(into.verdict, verdict::REDIRECT, "it is on its way still");
            let packet = Packet::parse(&into.bytes).unwrap();
            let is_echo = matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6);
            let to_port = if is_echo {
                packet.ports.0
            } else {
                packet.ports.1
            };
            assert_eq!(to_port, lost);
        }
    }
}
