//! The client's policy and limits, at its own TAP (R-6, P-9, P-11).

use netagent_common::drop::DropReason;
use netagent_common::limit::Rate;
use netagent_common::net::tcp_flag::{ACK, RST, SYN};
use netagent_common::policy::policy_flag::{DENY_ALL, RELAY};
use netagent_common::policy::{PolicyId, Verdict};
use netagent_common::vm::Interface;
use netagent_tests::packet::Ends;
use netagent_tests::prog_run::verdict;
use netagent_tests::scene::{GUEST_MAC, to};

use super::{
    Kind, OTHER_SLOT, OTHER_TAP, PORTS, RELAY_MAC, REMOTES, SLOT, Scene, check_refused, client,
    drops_of, forwarded, leg_of, message, pass, question, relay, relay_record, relayed,
    relayed_with, returned, seen,
};

const POLICY: PolicyId = [3; 16];

fn of_world(scene: &mut Scene, verdict: Verdict) {
    let everything = [
        (("0.0.0.0".parse().unwrap(), 0), verdict),
        (("::".parse().unwrap(), 0), verdict),
    ];
    scene.datapath.set_policy(POLICY, &everything);
}

#[test]
fn the_client_s_policy_decides_before_the_relay_sees_anything() {
    for remote in REMOTES {
        for (verdict, reason) in [
            (Verdict::Denied, DropReason::DeniedCidr),
            (Verdict::NotAllowed, DropReason::NotAllowed),
        ] {
            let mut scene = relayed_with(&Interface {
                policy: POLICY,
                ..client()
            });
            of_world(&mut scene, verdict);
            check_refused(&scene.from_vm(&question(Kind::Tcp, remote)), GUEST_MAC);
            assert_eq!(drops_of(&mut scene, SLOT, reason), 1);
        }
    }
}

#[test]
fn the_relay_s_policy_is_for_its_own_traffic() {
    for remote in REMOTES {
        let mut scene = relayed();
        scene.datapath.set_interface(&Interface {
            ifindex: OTHER_TAP,
            slot: OTHER_SLOT,
            instance: OTHER_SLOT,
            policy_flags: RELAY | DENY_ALL,
            ..relay_record()
        });
        pass(&mut scene, Kind::Tcp, remote);
        let ends = Ends {
            src_mac: RELAY_MAC,
            src: relay(remote),
            ..to(remote)
        };
        let own = message(Kind::Udp, &ends, PORTS, SYN);
        check_refused(&scene.from_other(&own), RELAY_MAC);
        assert_eq!(drops_of(&mut scene, OTHER_SLOT, DropReason::DenyAll), 1);
    }
}

/// A connection of the client that its new policy forbids.
fn forbidden(remote: std::net::IpAddr) -> Scene {
    let mut scene = relayed();
    pass(&mut scene, Kind::Tcp, remote);
    of_world(&mut scene, Verdict::Denied);
    for device in [0, 3] {
        scene.datapath.up(device);
    }
    let record = client();
    scene.datapath.set_interface(&Interface {
        policy: POLICY,
        policy_generation: record.policy_generation + 1,
        ..record
    });
    scene
}

#[test]
fn a_policy_that_forbids_a_connection_resets_both_ends_at_the_client_s_next_segment() {
    for remote in REMOTES {
        let mut scene = forbidden(remote);
        let next = message(Kind::Tcp, &to(remote), PORTS, ACK);
        let on = seen(&scene.from_vm(&next));
        assert_ne!(on.kind & RST, 0);
        assert_eq!(on.ends.dst_mac, RELAY_MAC, "the world, by the relay");
        let told = scene.told(0);
        assert_ne!(told.kind & RST, 0);
        assert_eq!(told.ends.dst_mac, GUEST_MAC);
        assert_eq!(drops_of(&mut scene, SLOT, DropReason::DeniedCidr), 1);
        check_refused(&scene.from_vm(&next), GUEST_MAC);
    }
}

#[test]
fn and_at_the_next_one_that_the_relay_passes_on() {
    for remote in REMOTES {
        let mut scene = forbidden(remote);
        let next = message(Kind::Tcp, &returned(remote), (PORTS.1, PORTS.0), ACK);
        let back = seen(&scene.from_other(&next));
        assert_ne!(back.kind & RST, 0);
        assert_eq!((back.ends.dst_mac, back.ends.dst), (RELAY_MAC, remote));
        let told = scene.told(0);
        assert_ne!(told.kind & RST, 0);
        assert_eq!(told.ends.dst_mac, GUEST_MAC);
        assert_eq!(scene.from_other(&next).verdict, verdict::DROP);
    }
}

#[test]
fn a_policy_that_permits_a_flow_loses_no_packet_of_it() {
    for remote in REMOTES {
        let mut scene = relayed();
        let nat_port = pass(&mut scene, Kind::Udp, remote);
        for generation in 2..5 {
            of_world(&mut scene, Verdict::Allowed);
            let record = Interface {
                policy: POLICY,
                policy_generation: generation,
                ..client()
            };
            scene.datapath.set_interface(&record);
            scene.datapath.set_interface(&leg_of(&record));
            if generation % 2 == 0 {
                let next = message(Kind::Udp, &returned(remote), (PORTS.1, PORTS.0), ACK);
                let outcome = scene.from_other(&next);
                assert_eq!(outcome.verdict, verdict::REDIRECT);
            }
            assert_eq!(pass(&mut scene, Kind::Udp, remote), nat_port);
        }
    }
}

#[test]
fn what_goes_through_a_relay_is_charged_at_the_client_s_tap_alone() {
    for remote in REMOTES {
        // Both may send and receive hardly anything.
        let record = Interface {
            packets: Rate::of_packets(1),
            ..client()
        };
        let mut scene = relayed_with(&record);
        let mut leg = leg_of(&record);
        leg.packets = client().packets;
        scene.datapath.set_interface(&leg);
        scene.datapath.set_interface(&Interface {
            ifindex: OTHER_TAP,
            slot: OTHER_SLOT,
            instance: OTHER_SLOT,
            packets: Rate::of_packets(1),
            ..relay_record()
        });
        let mut passed = 0;
        for _ in 0..200 {
            let outcome = scene.from_vm(&question(Kind::Udp, remote));
            passed += u32::from(outcome.verdict == verdict::REDIRECT);
        }
        assert!(drops_of(&mut scene, SLOT, DropReason::PacketRate) > 0);
        for _ in 0..200 {
            let ends = forwarded(&to(remote));
            let outcome = scene.from_other(&message(Kind::Udp, &ends, PORTS, SYN));
            assert_eq!(outcome.verdict, verdict::REDIRECT);
        }
        assert_eq!(drops_of(&mut scene, OTHER_SLOT, DropReason::PacketRate), 0);
        assert!(passed > 0);
    }
}
