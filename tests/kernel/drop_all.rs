//! What `drop_all` drops, and what it leaves to `from_vm`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::drop::{DropReason, NO_SLOT};
use netagent_common::names::{DROP_ALL, FROM_VM};
use netagent_common::net::{ethertype, protocol};
use netagent_common::policy::policy_flag::{AUDIT, DENY_ALL, QUARANTINE};
use netagent_common::vm::Interface;
use netagent_tests::fragment::fragments;
use netagent_tests::neighbour::{self, Claim};
use netagent_tests::packet::{self, echo_reply, echo_request, tagged, udp};
use netagent_tests::prog_run::{Context, Sizes, verdict};
use netagent_tests::router;
use netagent_tests::scene::{
    self, GATEWAY_V4, GUEST_MAC, GUEST_V4, GUEST_V6, HOST_V4, HOST_V6, REMOTE_V4, REMOTE_V6, SLOT,
    Scene, gateway_v6, to,
};

use crate::drops::{Case, Maps};
use crate::nat::tcp_segment;
use crate::services::{LINK_LOCAL, dhcp, solicitation, to_all, to_routers};

fn scene(flags: u32) -> Scene {
    let record = Interface {
        policy_flags: flags,
        ..scene::record()
    };
    Scene::new(Sizes::default(), &record)
}

/// What a guest is left under `deny-all`.
fn served() -> Vec<(&'static str, Vec<u8>)> {
    let claim = Claim {
        mac: GUEST_MAC,
        ip: GUEST_V4,
    };
    let long = [7; 3_000];
    let in_pieces = |frame: Vec<u8>, what| {
        let pieces = fragments(&frame, 1_400, 9);
        pieces.into_iter().map(move |piece| (what, piece))
    };
    let mut served = vec![
        ("ARP", neighbour::arp_request(claim, GATEWAY_V4)),
        (
            "a neighbour solicitation",
            neighbour::solicitation(GUEST_MAC, GUEST_V6, gateway_v6()),
        ),
        (
            "a probe for a duplicate",
            neighbour::solicitation(GUEST_MAC, Ipv6Addr::UNSPECIFIED, GUEST_V6),
        ),
        (
            "a neighbour advertisement",
            neighbour::advertisement(&to(gateway_v6()), GUEST_V6, GUEST_MAC),
        ),
        (
            "a router solicitation",
            solicitation(&to_routers(LINK_LOCAL), &[]),
        ),
        ("a DHCP request", dhcp(&to_all(Ipv4Addr::UNSPECIFIED))),
        ("a renewal", dhcp(&to(GATEWAY_V4))),
        ("echo", echo_request(&to(GATEWAY_V4), (1, 1), b"echo")),
        (
            "echo of IPv6",
            echo_request(&to(gateway_v6()), (1, 1), b"echo"),
        ),
        (
            "echo from the link",
            echo_request(
                &to(gateway_v6()).from(router::link_local(GUEST_MAC)),
                (1, 1),
                b"echo",
            ),
        ),
        (
            "an echo reply to the host",
            echo_reply(&to(GATEWAY_V4), (1, 1), b"echo"),
        ),
        (
            "an echo reply to another address of it",
            echo_reply(&to(HOST_V4), (1, 1), b"echo"),
        ),
        (
            "an echo reply of IPv6",
            echo_reply(&to(HOST_V6), (1, 1), b"echo"),
        ),
    ];
    served.extend(in_pieces(
        echo_request(&to(GATEWAY_V4), (1, 1), &long),
        "echo in pieces",
    ));
    served.extend(in_pieces(
        echo_request(&to(gateway_v6()), (1, 1), &long),
        "v6 echo in pieces",
    ));
    served.extend(in_pieces(
        echo_reply(&to(HOST_V4), (1, 1), &long),
        "a reply in pieces",
    ));
    served
}

/// What it is not.
fn denied() -> Vec<(&'static str, Vec<u8>)> {
    let mut denied = Vec::new();
    for remote in [IpAddr::from(REMOTE_V4), REMOTE_V6.into()] {
        denied.extend([
            ("UDP", udp(&to(remote), (4_000, 5_000), b"payload")),
            ("TCP", tcp_segment(&to(remote), (4_000, 80), b"payload")),
            (
                "echo to the world",
                echo_request(&to(remote), (1, 1), b"echo"),
            ),
            ("another protocol", packet::ip(&to(remote), 47, b"payload")),
        ]);
    }
    for gateway in [IpAddr::from(GATEWAY_V4), gateway_v6().into()] {
        denied.extend([
            ("a DNS query", udp(&to(gateway), (4_000, 53), b"payload")),
            (
                "a service of the host",
                tcp_segment(&to(gateway), (4_000, 22), b"payload"),
            ),
        ]);
    }
    let mut options = echo_request(&to(GATEWAY_V4), (1, 1), b"echo");
    options[14] = 0x46;
    let tagged = tagged(&echo_request(&to(GATEWAY_V4), (1, 1), b"echo"), 0x8100, 5);
    let bare = |kind| packet::ethernet([0xff; 6], GUEST_MAC, kind, &[0x45; 23]);
    denied.extend([
        (
            "DHCP to another port",
            udp(&to(GATEWAY_V4), (68, 68), b"payload"),
        ),
        (
            "DHCP from another port",
            udp(&to(GATEWAY_V4), (67, 67), b"payload"),
        ),
        ("options", options),
        ("a tag", tagged),
        ("a short packet", bare(ethertype::IPV4)),
        ("a short packet of IPv6", bare(ethertype::IPV6)),
        ("an unknown type", bare(0x88cc)),
        (
            "a piece of UDP",
            fragments(&udp(&to(REMOTE_V6), (4_000, 5_000), &[7; 3_000]), 1_400, 9).remove(1),
        ),
        (
            "no IGMP",
            packet::ip(
                &to(Ipv4Addr::new(224, 0, 0, 22)),
                protocol::IGMP,
                &[0x22; 16],
            ),
        ),
    ]);
    denied
}

type Drops = Vec<((u32, DropReason), u64)>;

/// Which frames pass, and what is counted for the others.
fn run(scene: &mut Scene, bytes: &[u8]) -> (i32, Drops) {
    let before = scene.datapath.drops();
    let outcome = scene.datapath.run(DROP_ALL, bytes, scene::FROM_VM);
    assert_eq!(outcome.bytes, bytes, "nothing is changed");
    let mut after = scene.datapath.drops();
    after.retain(|key, count| {
        *count -= before.get(key).copied().unwrap_or(0);
        *count != 0
    });
    (outcome.verdict, after.into_iter().collect())
}

fn check(flags: u32, expected: impl Fn(bool) -> Option<DropReason>) {
    let mut scene = scene(flags);
    let frames = [(true, served()), (false, denied())];
    for (is_served, frames) in frames {
        for (what, bytes) in frames {
            let expected = match expected(is_served) {
                None => (verdict::NEXT, vec![]),
                Some(reason) => (verdict::DROP, vec![((SLOT, reason), 1)]),
            };
            assert_eq!(run(&mut scene, &bytes), expected, "flags {flags}: {what}");
        }
    }
}

#[test]
fn under_deny_all_what_the_guest_is_left_passes_and_nothing_else() {
    check(DENY_ALL, |is_served| {
        (!is_served).then_some(DropReason::DenyAll)
    });
}

#[test]
fn a_guest_that_floods_sends_nothing() {
    for flags in [
        QUARANTINE,
        QUARANTINE | DENY_ALL,
        QUARANTINE | DENY_ALL | AUDIT,
    ] {
        check(flags, |_| Some(DropReason::Quarantine));
    }
}

#[test]
fn where_the_record_does_not_ask_for_it_everything_passes() {
    for flags in [0, AUDIT, DENY_ALL | AUDIT] {
        check(flags, |_| None);
    }
}

#[test]
fn without_a_record_nothing_passes() {
    let mut scene = scene(0);
    scene.datapath.set_active(SLOT, 0);
    for (what, bytes) in served() {
        let expected = vec![((NO_SLOT, DropReason::UnknownInterface), 1)];
        assert_eq!(run(&mut scene, &bytes), (verdict::DROP, expected), "{what}");
    }
}

#[test]
fn whatever_a_guest_sends_is_judged() {
    let mut scene = scene(DENY_ALL);
    let whole = served().into_iter().chain(denied());
    for (what, bytes) in whole {
        for len in 14..bytes.len().min(80) {
            let (verdict, drops) = run(&mut scene, &bytes[..len]);
            let is_one = matches!(
                (verdict, drops.len()),
                (verdict::NEXT, 0) | (verdict::DROP, 1)
            );
            assert!(is_one, "{what}, {len} bytes");
        }
    }
}

/// `from_vm` does the same, for as long as it takes to attach `drop_all`.
#[test]
fn a_guest_that_floods_sends_nothing_without_drop_all_either() {
    let mut scene = scene(QUARANTINE);
    let frames: Vec<_> = served().into_iter().chain(denied()).collect();
    let count = frames.len() as u64;
    for (what, bytes) in frames {
        // The kernel takes no packet that is shorter than its IP header for this kind of program.
        let outcome = scene.datapath.try_run(FROM_VM, &bytes, scene::FROM_VM);
        let verdict = outcome.map_or(verdict::DROP, |outcome| outcome.verdict);
        assert_eq!(verdict, verdict::DROP, "{what}");
    }
    let drops = scene.datapath.drops();
    let counted = drops.get(&(SLOT, DropReason::Quarantine)).copied();
    assert!(
        drops.len() == 1 && counted.is_some_and(|counted| counted + 2 >= count),
        "{drops:?}"
    );
}

/// For the table of reasons.
pub(crate) fn dropped_cases() -> Vec<Case> {
    let flags = [
        (DENY_ALL, DropReason::DenyAll),
        (QUARANTINE, DropReason::Quarantine),
    ];
    let cases = flags.into_iter().map(|(flags, reason)| {
        let bytes = udp(&to(REMOTE_V4), (4_000, 5_000), b"payload");
        let case = Case::from_vm(reason, "to drop_all", bytes).with(Maps::Flags(flags));
        case.seen_by(DROP_ALL, Context { ..scene::FROM_VM })
    });
    cases.collect()
}
