//! The order of P-3, and audit mode (P-14).

use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::net::tcp_flag;
use netagent_common::policy::{Verdict, policy_flag};
use netagent_tests::packet;
use netagent_tests::prog_run::verdict;
use netagent_tests::published::{Publication, publish};
use netagent_tests::scene::{self, GATEWAY_V4, HOST_V4, REMOTE_V4, SLOT, Scene, back, to};

use crate::policy::{
    REMOTES, TRANSPORTS, assert_refused, deny_all, id_of, put, segment, sent, set,
};

#[test]
fn the_lists_decide_about_what_the_guest_opens() {
    for remote in REMOTES {
        for number in TRANSPORTS {
            for (says, reason) in [
                (Verdict::Default, None),
                (Verdict::Allowed, None),
                (Verdict::NotAllowed, Some(DropReason::NotAllowed)),
                (Verdict::Denied, Some(DropReason::DeniedCidr)),
            ] {
                let mut scene = Scene::usual();
                put(&mut scene, 1, (says, Verdict::Default));
                let bytes = sent(number, &to(remote), tcp_flag::SYN);
                match reason {
                    Some(reason) => assert_refused(&mut scene, reason, &bytes),
                    None => assert_eq!(scene.from_vm(&bytes).verdict, verdict::REDIRECT),
                }
            }
        }
    }
}

#[test]
fn the_longest_prefix_decides() {
    let mut scene = Scene::usual();
    put(&mut scene, 1, (Verdict::Allowed, Verdict::NotAllowed));
    let near: IpAddr = "203.0.113.200".parse().unwrap();
    let outside: IpAddr = "203.0.114.1".parse().unwrap();
    let bytes = |to_whom| sent(17, &to(to_whom), 0);
    assert_eq!(scene.from_vm(&bytes(near)).verdict, verdict::REDIRECT);
    assert_refused(&mut scene, DropReason::NotAllowed, &bytes(outside));
}

#[test]
fn what_is_always_denied_is_so_under_every_policy() {
    let metadata: IpAddr = "169.254.169.254".parse().unwrap();
    let other: IpAddr = "172.16.9.2".parse().unwrap();
    for (to_whom, reason) in [
        (metadata, DropReason::AlwaysDenied),
        (other, DropReason::OtherInstance),
        (HOST_V4.into(), DropReason::HostAddress),
        ("10.9.0.1".parse().unwrap(), DropReason::NotUplink),
    ] {
        for flags in [0, policy_flag::AUDIT] {
            let mut scene = Scene::usual();
            put(&mut scene, 1, (Verdict::Allowed, Verdict::Allowed));
            set(&mut scene, 1, |record| {
                (record.policy, record.policy_flags) = (id_of(1), flags);
            });
            let before = crate::policy::counted(&mut scene, reason);
            let outcome = scene.from_vm(&sent(17, &to(to_whom), 0));
            assert_ne!(outcome.verdict, verdict::NEXT);
            assert_eq!(crate::policy::counted(&mut scene, reason), before + 1);
        }
    }
}

#[test]
fn under_deny_all_the_gateway_answers_echo_and_nobody_dns() {
    let mut scene = Scene::usual();
    set(&mut scene, 1, deny_all);
    let ping = packet::echo_request(&to(GATEWAY_V4), (1, 1), b"ping");
    assert_eq!(scene.from_vm(&ping).verdict, verdict::REDIRECT);
    for gateway in [IpAddr::V4(GATEWAY_V4), IpAddr::V6(scene::gateway_v6())] {
        let query = packet::udp(&to(gateway), (4_000, 53), b"query");
        assert_refused(&mut scene, DropReason::DenyAll, &query);
    }
    // And from an address of the link.
    let from: IpAddr = "fe80::22".parse().unwrap();
    let query = packet::udp(
        &to(IpAddr::V6(scene::gateway_v6())).from(from),
        (4_000, 53),
        b"query",
    );
    let before = crate::policy::counted(&mut scene, DropReason::DenyAll);
    scene.from_vm(&query);
    let after = crate::policy::counted(&mut scene, DropReason::DenyAll);
    assert_eq!(after, before + 1);
}

/// Publishes a port of the host for another guest.
fn published_by_other(scene: &mut Scene) {
    scene.add_other(scene::record());
    let publication = Publication {
        id: 1,
        protocol: 6,
        address: HOST_V4.into(),
        port: 8_080,
        guest_port: 80,
        limited: false,
    };
    let other = netagent_common::vm::Interface {
        slot: scene::OTHER_SLOT,
        ..scene::record()
    };
    publish(&mut scene.datapath, &other, &publication);
}

#[test]
fn a_published_port_of_the_host_is_judged_by_the_lists_on_its_address() {
    for (rest, reason) in [
        (Verdict::NotAllowed, DropReason::NotAllowed),
        (Verdict::Denied, DropReason::DeniedCidr),
    ] {
        let mut scene = Scene::usual();
        published_by_other(&mut scene);
        put(&mut scene, 1, (Verdict::Allowed, rest));
        let knock = segment(&to(HOST_V4), (4_000, 8_080), tcp_flag::SYN);
        assert_refused(&mut scene, reason, &knock);
    }
    let mut scene = Scene::usual();
    published_by_other(&mut scene);
    set(&mut scene, 1, deny_all);
    let knock = segment(&to(HOST_V4), (4_000, 8_080), tcp_flag::SYN);
    assert_refused(&mut scene, DropReason::DenyAll, &knock);
}

#[test]
fn what_others_open_is_judged_by_the_denied_networks_alone() {
    for (says, passes) in [
        (Verdict::Denied, false),
        (Verdict::DeniedTwice, false),
        (Verdict::AlwaysDenied, true),
        (Verdict::NotAllowed, true),
        (Verdict::Allowed, true),
    ] {
        let mut scene = Scene::usual();
        let publication = Publication {
            id: 1,
            protocol: 6,
            address: HOST_V4.into(),
            port: 8_080,
            guest_port: 80,
            limited: false,
        };
        publish(&mut scene.datapath, &scene::record(), &publication);
        put(&mut scene, 1, (says, Verdict::NotAllowed));
        let knock = segment(&back(REMOTE_V4), (51_000, 8_080), tcp_flag::SYN);
        let expected = if passes {
            verdict::REDIRECT
        } else {
            verdict::DROP
        };
        assert_eq!(scene.from_uplink(&knock).verdict, expected, "{says:?}");
        if passes {
            let flags = tcp_flag::SYN | tcp_flag::ACK;
            let reply = segment(&to(REMOTE_V4), (80, 51_000), flags);
            assert_eq!(scene.from_vm(&reply).verdict, verdict::REDIRECT);
        }
    }
}

#[test]
fn audit_counts_what_the_policy_would_drop_and_lets_it_pass() {
    for remote in REMOTES {
        let mut scene = Scene::usual();
        put(&mut scene, 1, (Verdict::Denied, Verdict::NotAllowed));
        set(&mut scene, 1, |record| {
            (record.policy, record.policy_flags) = (id_of(1), policy_flag::AUDIT);
        });
        let bytes = sent(17, &to(remote), 0);
        assert_eq!(scene.from_vm(&bytes).verdict, verdict::REDIRECT);
        let audited = scene.datapath.audited();
        assert_eq!(audited.get(&(SLOT, DropReason::DeniedCidr)), Some(&1));
        assert_eq!(
            crate::policy::counted(&mut scene, DropReason::DeniedCidr),
            0
        );
        set(&mut scene, 2, |record| {
            record.policy_flags = policy_flag::AUDIT | policy_flag::DENY_ALL;
        });
        assert_eq!(scene.from_vm(&bytes).verdict, verdict::REDIRECT);
        let audited = scene.datapath.audited();
        assert_eq!(audited.get(&(SLOT, DropReason::DenyAll)), Some(&1));
    }
}

#[test]
fn a_packet_for_a_published_port_is_audited_once() {
    let mut scene = Scene::usual();
    published_by_other(&mut scene);
    set(&mut scene, 1, |record| {
        record.policy_flags = policy_flag::AUDIT | policy_flag::DENY_ALL;
    });
    let knock = segment(&to(HOST_V4), (4_000, 8_080), tcp_flag::SYN);
    assert_eq!(scene.from_vm(&knock).verdict, verdict::REDIRECT);
    let audited = scene.datapath.audited();
    assert_eq!(audited.get(&(SLOT, DropReason::DenyAll)), Some(&1));
}

#[test]
fn a_policy_that_is_not_there_allows_nothing_even_in_audit_mode() {
    for flags in [0, policy_flag::AUDIT] {
        let mut scene = Scene::usual();
        set(&mut scene, 1, |record| {
            (record.policy, record.policy_flags) = (crate::policy::ALL, flags);
        });
        let bytes = sent(6, &to(REMOTE_V4), tcp_flag::SYN);
        assert_refused(&mut scene, DropReason::PolicyMissing, &bytes);
    }
}
