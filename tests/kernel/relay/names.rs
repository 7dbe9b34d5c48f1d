//! DNS of a client.

use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::net::tcp_flag::ACK;
use netagent_common::policy::policy_flag::{DENY_ALL, DNS_STEERED};
use netagent_common::services::{Client, SERVICES_HOST_MAC, SERVICES_MAC};
use netagent_common::vm::Interface;
use netagent_tests::fragment::fragments;
use netagent_tests::packet::{self, Ends, Packet};
use netagent_tests::prog_run::verdict;
use netagent_tests::scene::{GUEST_MAC, GUEST_V4, to};

use super::{
    Kind, LEG_SLOT, RELAY_MAC, REMOTES, SLOT, Scene, check_carried, check_refused, client,
    drops_of, forwarded, message, relayed, relayed_with, returned, scene, seen,
};

const DNS: (u16, u16) = (5_353 + 1, 53);

fn gateway(like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        scene::GATEWAY_V4.into()
    } else {
        scene::gateway_v6().into()
    }
}

fn asked(kind: Kind, ends: &Ends) -> Vec<u8> {
    message(kind, ends, DNS, netagent_common::net::tcp_flag::SYN)
}

/// Whose question reached the servers.
fn asker(outcome: &netagent_tests::prog_run::Outcome) -> u32 {
    let steered = seen(outcome);
    assert_eq!(
        (steered.ends.src_mac, steered.ends.dst_mac),
        (SERVICES_HOST_MAC, SERVICES_MAC)
    );
    match steered.ends.src {
        IpAddr::V4(address) => Client::from_v4(address.octets()).unwrap().slot,
        IpAddr::V6(address) => Client::from_v6(address.octets()).unwrap().0.slot,
    }
}

fn steered() -> Interface {
    let mut record = client();
    record.policy_flags |= DNS_STEERED;
    record
}

#[test]
fn names_take_the_relay_whatever_server_is_asked() {
    for remote in REMOTES {
        for kind in [Kind::Udp, Kind::Tcp] {
            for server in [gateway(remote), remote] {
                let mut scene = relayed();
                let question = asked(kind, &to(server));
                check_carried(&scene.from_vm(&question), &question, RELAY_MAC);
            }
        }
    }
}

#[test]
fn a_question_that_a_relay_forwards_to_the_client_s_gateway_is_the_resolver_s() {
    for kind in [Kind::Udp, Kind::Tcp] {
        let mut scene = relayed();
        let ends = to(scene::GATEWAY_V4);
        let question = asked(kind, &ends);
        check_carried(&scene.from_vm(&question), &question, RELAY_MAC);
        let steered = scene.from_other(&asked(kind, &forwarded(&ends)));
        assert_eq!(asker(&steered), LEG_SLOT, "the client's, by the relay");
        // The answer goes back by the relay.
        let came = Packet::parse(&steered.bytes).unwrap();
        let ends = Ends {
            src_mac: SERVICES_MAC,
            dst_mac: SERVICES_HOST_MAC,
            src: came.ends.dst,
            dst: came.ends.src,
            ttl: 64,
        };
        let answer = message(kind, &ends, (53, DNS.0), ACK);
        let returned_to = seen(&scene.from_services(&answer));
        assert_eq!(returned_to.ends.dst_mac, RELAY_MAC);
        assert_eq!(
            (returned_to.ends.src, returned_to.ends.dst),
            (scene::GATEWAY_V4.into(), GUEST_V4.into())
        );
        let ends = returned(scene::GATEWAY_V4.into());
        let forwarded = message(kind, &ends, (53, DNS.0), ACK);
        check_carried(&scene.from_other(&forwarded), &forwarded, GUEST_MAC);
    }
}

#[test]
fn answers_stay_out_while_the_relay_is_down() {
    let mut scene = relayed();
    let ends = forwarded(&to(scene::GATEWAY_V4));
    let steered = seen(&scene.from_other(&asked(Kind::Udp, &ends)));
    scene.datapath.set_interface(&Interface {
        ifindex: 0,
        ..super::leg_of(&client())
    });
    let ends = Ends {
        src_mac: SERVICES_MAC,
        dst_mac: SERVICES_HOST_MAC,
        src: steered.ends.dst,
        dst: steered.ends.src,
        ttl: 64,
    };
    let answer = message(Kind::Udp, &ends, (53, DNS.0), ACK);
    assert_eq!(scene.from_services(&answer).verdict, verdict::DROP);
    assert_eq!(drops_of(&mut scene, LEG_SLOT, DropReason::RelayDown), 1);
}

#[test]
fn where_the_relay_has_no_part_in_names_all_of_port_53_is_the_resolver_s() {
    for remote in REMOTES {
        for kind in [Kind::Udp, Kind::Tcp] {
            for server in [gateway(remote), remote] {
                let mut scene = relayed_with(&steered());
                assert_eq!(asker(&scene.from_vm(&asked(kind, &to(server)))), SLOT);
            }
        }
        // Neither in fragments nor otherwise past it.
        let mut scene = relayed_with(&steered());
        let long = packet::udp(&to(remote), DNS, &[0; 2_000]);
        for piece in fragments(&long, 1_200, 3) {
            check_refused(&scene.from_vm(&piece), GUEST_MAC);
        }
        assert_eq!(drops_of(&mut scene, SLOT, DropReason::DnsBypass), 1);
    }
}

#[test]
fn who_may_open_nothing_asks_nothing() {
    for flags in [DENY_ALL, DENY_ALL | DNS_STEERED] {
        for remote in REMOTES {
            for server in [gateway(remote), remote] {
                let mut record = client();
                record.policy_flags |= flags;
                let mut scene: Scene = relayed_with(&record);
                let outcome = scene.from_vm(&asked(Kind::Udp, &to(server)));
                check_refused(&outcome, GUEST_MAC);
                assert_eq!(drops_of(&mut scene, SLOT, DropReason::DenyAll), 1);
            }
        }
    }
}

#[test]
fn a_link_local_question_goes_nowhere_past_the_relay() {
    let mut scene = relayed();
    let ends = Ends {
        src: "fe80::a8fc:ff:fe00:6".parse().unwrap(),
        ..to(scene::gateway_v6())
    };
    check_refused(&scene.from_vm(&asked(Kind::Udp, &ends)), GUEST_MAC);
    assert_eq!(drops_of(&mut scene, SLOT, DropReason::GatewayClosed), 1);
    let mut scene = relayed_with(&steered());
    assert_eq!(asker(&scene.from_vm(&asked(Kind::Udp, &ends))), SLOT);
}
