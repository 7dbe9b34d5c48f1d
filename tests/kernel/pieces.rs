//! Fragments that go nowhere: bad ones, those of no flow, and those that are too many.

use std::net::IpAddr;

use bytemuck::Zeroable;
use netagent_common::drop::DropReason;
use netagent_common::fragment::{First, FragmentKey, REMEMBERED_NS};
use netagent_common::limit::{FRAGMENTED_PER_SECOND, Used};
use netagent_common::names::{FROM_UPLINK, map};
use netagent_tests::fragment::{fragment, fragments, piece};
use netagent_tests::packet::{self, Ends};
use netagent_tests::prog_run::verdict;
use netagent_tests::scene::{self, REMOTE_V4, SLOT, Scene, back, to};

use crate::fragments::{FAR, from_uplink, from_vm, pass, payload};
use crate::nat::{self, PROTOCOLS};

/// Fragments of a guest that nobody needs, after a good first one of 512 bytes with identification 7.
fn bad(remote: IpAddr) -> Vec<(&'static str, Vec<u8>)> {
    let whole = packet::udp(&to(remote), (4_000, 53), &payload(4_000));
    let tcp = nat::tcp_segment(&to(remote), (4_001, 53), &payload(4_000));
    let echo = packet::echo_request(&to(remote), (4_000, 3), &payload(4_000));
    let start = if remote.is_ipv4() { 34 } else { 54 };
    let body = |frame: &[u8], length: usize| frame[start..start + length].to_vec();
    vec![
        (
            "over the first one's end",
            piece(&whole, &[1; 16], (504, true), 7),
        ),
        ("over the first one", piece(&whole, &[1; 8], (8, true), 7)),
        ("of another packet", piece(&whole, &[1; 8], (512, true), 8)),
        ("of another protocol", piece(&tcp, &[1; 8], (512, true), 7)),
        ("half an eight", piece(&whole, &[1; 12], (512, true), 7)),
        (
            "behind the longest packet",
            piece(&whole, &[1; 64], (65_528, false), 7),
        ),
        (
            "behind the longest packet, endless",
            piece(&whole, &[1; 64], (65_528, true), 7),
        ),
        (
            "half a TCP header",
            piece(&tcp, &body(&tcp, 16), (0, true), 11),
        ),
        ("a TCP header without its options", {
            let mut half = body(&tcp, 24);
            half[12] = 0xf0;
            piece(&tcp, &half, (0, true), 12)
        }),
        (
            "half of TCP's flags",
            piece(&tcp, &body(&tcp, 8), (0, true), 13),
        ),
        ("an ICMP error", {
            let kind = if remote.is_ipv4() { 3 } else { 1 };
            let mut error = body(&echo, 512);
            error[0] = kind;
            piece(&echo, &error, (0, true), 14)
        }),
    ]
}

#[test]
fn fragments_that_overlap_or_end_nowhere_or_hide_a_header_are_dropped() {
    for remote in FAR {
        let mut scene = Scene::usual();
        let whole = packet::udp(&to(remote), (4_000, 53), &payload(4_000));
        pass(&mut scene, from_vm, &[fragment(&whole, (0, 512), 7)]);
        for (what, bytes) in bad(remote) {
            let before = scene
                .datapath
                .drops()
                .get(&(SLOT, DropReason::Fragment))
                .copied()
                .unwrap_or(0);
            let outcome = scene.from_vm(&bytes);
            assert_eq!(outcome.verdict, verdict::DROP, "{what}");
            let drops = scene.datapath.drops();
            assert_eq!(
                drops.get(&(SLOT, DropReason::Fragment)),
                Some(&(before + 1)),
                "{what} {drops:?}"
            );
        }
        pass(&mut scene, from_vm, &[fragment(&whole, (512, 512), 7)]);
    }
}

/// A first fragment with these ends.
fn first(ends: &Ends) -> Vec<u8> {
    let whole = packet::udp(ends, (4_000, 53), &payload(4_000));
    fragment(&whole, (0, 512), 21)
}

/// Fragments that are dropped for what a packet would be dropped for.
fn judged(remote: IpAddr) -> Vec<(DropReason, &'static str, Vec<u8>)> {
    use DropReason::{
        Fragment, HostAddress, Malformed, NotForGateway, OtherInstance, RogueDhcp, SpoofedAddress,
        TooBig, TtlExpired, UnknownProtocol,
    };
    let addresses = if remote.is_ipv4() {
        ["198.51.100.2", "172.16.0.18", "172.16.0.21"]
    } else {
        ["2001:db8:100::2", "fd00:a:b:4::2", "fe80::1"]
    };
    let to_one = addresses.map(|address| first(&to(address.parse::<IpAddr>().unwrap())));
    let [host, other, gateway] = to_one;
    let ends = to(remote);
    let elsewhere = Ends {
        dst_mac: [2; 6],
        ..ends
    };
    let whole = packet::udp(&ends, (4_000, 53), &payload(4_000));
    let mut short = piece(&whole, &[1; 8], (512, true), 21);
    short.truncate(short.len() - 8);
    let tunnel = packet::ip(&ends, 47, &[0; 600]);
    let ports = if remote.is_ipv4() {
        (67, 68)
    } else {
        (547, 546)
    };
    let server = packet::udp(&ends, ports, &payload(4_000));
    vec![
        (SpoofedAddress, "another's", first(&ends.from(remote))),
        (NotForGateway, "another receiver", first(&elsewhere)),
        (HostAddress, "to the host", host),
        (OtherInstance, "to another instance", other),
        (Fragment, "to the gateway", gateway),
        (TtlExpired, "no hop left", first(&Ends { ttl: 1, ..ends })),
        (TooBig, "too large", fragment(&whole, (0, 1_600), 22)),
        (UnknownProtocol, "GRE", fragment(&tunnel, (0, 512), 23)),
        (Malformed, "shorter than it says", short),
        (RogueDhcp, "a DHCP server", fragment(&server, (0, 512), 24)),
    ]
}

/// How many packets of the instance were dropped for a reason.
fn dropped(scene: &mut Scene, reason: DropReason) -> u64 {
    let drops = scene.datapath.drops();
    drops.get(&(SLOT, reason)).copied().unwrap_or(0)
}

#[test]
fn fragments_of_a_guest_are_judged_like_packets() {
    let mut scene = Scene::usual();
    for remote in FAR {
        for (reason, what, bytes) in judged(remote) {
            let before = dropped(&mut scene, reason);
            let outcome = scene.from_vm(&bytes);
            let is_told = crate::drops::is_told(&outcome);
            assert!(outcome.verdict == verdict::DROP || is_told, "{what}");
            assert_eq!(dropped(&mut scene, reason), before + 1, "{what}");
        }
        let outcome = scene.super_frame_from_vm(&first(&to(remote)), 100);
        assert_eq!(outcome.verdict, verdict::DROP, "a super-frame");
    }
}

#[test]
fn later_fragments_end_with_their_flow() {
    for remote in FAR {
        let whole = packet::udp(&to(remote), (4_000, 53), &payload(4_000));
        let pieces = fragments(&whole, 1_000, 9);
        let mut scene = Scene::usual();
        pass(&mut scene, from_vm, &pieces[..2]);
        let mut record = scene::record();
        record.generation += 1;
        scene.datapath.set_interface(&record);
        assert_eq!(scene.from_vm(&pieces[2]).verdict, verdict::DROP);
        // A new first one is judged anew.
        pass(&mut scene, from_vm, &pieces);
        let mut scene = Scene::usual();
        pass(&mut scene, from_vm, &pieces[..2]);
        let closed = scene::route(
            netagent_common::policy::RouteKind::NotUplink,
            remote.is_ipv4(),
            false,
        );
        scene.change_route(remote, &closed);
        assert_eq!(scene.from_vm(&pieces[2]).verdict, verdict::DROP);
        assert!(crate::drops::is_told(&scene.from_vm(&pieces[0])));
        assert_eq!(scene.from_vm(&pieces[2]).verdict, verdict::DROP);
    }
}

#[test]
fn a_first_fragment_is_forgotten_after_a_while() {
    let mut scene = Scene::usual();
    let whole = packet::udp(&to(REMOTE_V4), (4_000, 53), &payload(4_000));
    let pieces = fragments(&whole, 1_000, 9);
    pass(&mut scene, from_vm, &pieces[..2]);
    type Key = FragmentKey<[u8; 4]>;
    let entries = scene.datapath.entries::<Key, First>(map::FRAGMENTS_V4);
    let [(key, first)] = entries[..] else {
        panic!("one packet: {entries:?}")
    };
    let old = First {
        seen_ns: first.seen_ns - REMEMBERED_NS - 1_000_000_000,
        ..first
    };
    scene
        .datapath
        .insert::<Key, First>(map::FRAGMENTS_V4, key, old);
    assert_eq!(scene.from_vm(&pieces[2]).verdict, verdict::DROP);
}

#[test]
fn one_instances_fragments_are_not_anothers() {
    let mut scene = Scene::usual();
    scene.add_other(scene::record());
    for remote in FAR {
        let whole = packet::udp(&to(remote), (4_000, 53), &payload(4_000));
        let pieces = fragments(&whole, 1_000, 9);
        pass(&mut scene, from_vm, &pieces[..1]);
        assert_eq!(scene.from_other(&pieces[1]).verdict, verdict::DROP);
        assert_eq!(
            scene
                .datapath
                .run(FROM_UPLINK, &pieces[1], scene::FROM_UPLINK)
                .verdict,
            verdict::NEXT
        );
        pass(&mut scene, from_vm, &pieces[1..]);
    }
}

#[test]
fn fragmented_packets_are_limited_for_each_interface() {
    let (per_second, burst) = FRAGMENTED_PER_SECOND;
    let mut scene = Scene::usual();
    let whole = packet::udp(&to(REMOTE_V4), (4_000, 53), &payload(4_000));
    let first = fragment(&whole, (0, 512), 0);
    pass(&mut scene, from_vm, std::slice::from_ref(&first));
    let mut used = scene.datapath.array::<Used>(map::USED);
    let mut nothing = used.get(&SLOT, 0).unwrap();
    nothing.fragmented_ns += 3_600_000_000_000;
    used.set(SLOT, nothing, 0).unwrap();
    assert_eq!(scene.from_vm(&first).verdict, verdict::DROP);
    // What is on its way goes on, and so do whole packets.
    pass(&mut scene, from_vm, &[fragment(&whole, (512, 512), 0)]);
    pass(
        &mut scene,
        from_vm,
        &[packet::udp(&to(REMOTE_V4), (4_000, 53), b"whole")],
    );

    let mut used = scene.datapath.array::<Used>(map::USED);
    used.set(SLOT, Used::zeroed(), 0).unwrap();
    let sent = burst + 2_000;
    let started = netagent_tests::deadline::now();
    let passed = (0..sent).filter(|number| {
        let first = fragment(&whole, (0, 512), *number as u16);
        scene.from_vm(&first).verdict == verdict::REDIRECT
    });
    let passed = passed.count() as u64;
    let most = burst
        + 1
        + started.elapsed().as_micros() as u64 * per_second / 1_000_000
        + per_second / 100;
    assert!(
        (burst.min(sent)..=most).contains(&passed),
        "{passed} of at most {most}"
    );
}

#[test]
fn strange_fragments_of_the_world_are_the_hosts_and_bad_ones_of_a_flow_nobodys() {
    for remote in FAR {
        let mut scene = Scene::usual();
        let nat_port = nat::check_both_ways(&mut scene, remote, PROTOCOLS[0], 4_000);
        let answer = packet::udp(&back(remote), (53, nat_port), &payload(4_000));
        let stray = packet::udp(&back(remote), (54, nat_port), &payload(4_000));
        let echo = packet::echo_request(&back(remote), (9, 9), &payload(4_000));
        for whole in [&stray, &echo] {
            for bytes in fragments(whole, 1_000, 3) {
                let outcome = scene.from_uplink(&bytes);
                assert_eq!((outcome.verdict, &outcome.bytes), (verdict::NEXT, &bytes));
            }
        }
        let direct = packet::udp(
            &back(remote).to(nat::guest(remote)),
            (53, 4_000),
            &payload(4_000),
        );
        for bytes in fragments(&direct, 1_000, 4) {
            assert_eq!(
                scene.from_uplink(&bytes).verdict,
                verdict::DROP,
                "straight to the guest"
            );
        }
        pass(&mut scene, from_uplink, &[fragment(&answer, (0, 512), 7)]);
        let dropped = [
            ("half an eight", piece(&answer, &[1; 12], (512, true), 7)),
            (
                "behind the longest packet",
                piece(&answer, &[1; 64], (65_528, false), 7),
            ),
            ("too large", fragment(&answer, (512, 1_600), 7)),
        ];
        for (what, bytes) in dropped {
            assert_eq!(scene.from_uplink(&bytes).verdict, verdict::DROP, "{what}");
        }
        let into_first = piece(&answer, &[1; 16], (8, true), 7);
        assert_eq!(
            scene.from_uplink(&into_first).verdict,
            verdict::NEXT,
            "the host has no first one to spoil"
        );
        pass(&mut scene, from_uplink, &[fragment(&answer, (512, 512), 7)]);
    }
}
