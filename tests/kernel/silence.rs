//! What is dropped without a word, and how many errors are made at most.

use std::net::IpAddr;
use std::time::Duration;

use netagent_common::drop::DropReason;
use netagent_common::limit::ICMP_ERRORS_PER_SECOND;
use netagent_common::net::tcp_flag;
use netagent_tests::deadline;
use netagent_tests::packet::{self, Ends, Packet, Segment, hex};
use netagent_tests::prog_run::{Context, Outcome, verdict};
use netagent_tests::scene::{self, REMOTE_V4, SLOT, Scene, back, to};

use crate::drops::REMOTES;
use crate::frames::changed;
use crate::nat::{self, PROTOCOLS};
use crate::quotes::error;

/// What is dropped in silence.
pub(crate) fn check_silent(
    scene: &mut Scene,
    what: &str,
    sent: &[u8],
    run: fn(&mut Scene, &[u8]) -> Outcome,
) {
    let outcome = run(scene, sent);
    assert_eq!(outcome.verdict, verdict::DROP, "{what}: {}", hex(sent));
}

#[test]
fn a_datagram_that_may_be_fragmented_is_dropped_in_silence() {
    let mut scene = Scene::usual();
    let may = |bytes: Vec<u8>| packet::with_header_checksum(changed(bytes, 20, &[0, 0]));
    let sent = may(packet::udp(&to(REMOTE_V4), (4_000, 53), &[7; 1_500]));
    check_silent(&mut scene, "from the guest", &sent, |scene, sent| {
        scene.from_vm(sent)
    });
    let nat_port = nat::check_both_ways(&mut scene, REMOTES[0], PROTOCOLS[0], 4_000);
    let sent = may(packet::udp(&back(REMOTE_V4), (53, nat_port), &[7; 1_500]));
    check_silent(&mut scene, "to the guest", &sent, |scene, sent| {
        scene.from_uplink(sent)
    });
    let counted = scene
        .datapath
        .drops()
        .get(&(SLOT, DropReason::TooBig))
        .copied();
    assert_eq!(counted, Some(2));
}

#[test]
fn nobody_is_told_about_errors_resets_fragments_or_what_goes_to_many() {
    let mut scene = Scene::usual();
    let from_vm = |scene: &mut Scene, sent: &[u8]| scene.from_vm(sent);
    for remote in REMOTES {
        let late = Ends {
            ttl: 1,
            ..to(remote)
        };
        for flags in [tcp_flag::RST, tcp_flag::RST | tcp_flag::ACK] {
            let reset = Segment {
                src_port: 4_000,
                dst_port: 53,
                flags,
                ..Segment::default()
            };
            check_silent(
                &mut scene,
                "a reset",
                &packet::tcp(&late, reset, b""),
                from_vm,
            );
        }
        let quoted = packet::udp(&back(remote), (53, 4_000), b"quoted");
        let kind = if remote.is_ipv4() { (3, 1) } else { (1, 3) };
        let bytes = error(&late, (kind, [0; 4]), (&quoted, 100));
        check_silent(&mut scene, "an error", &bytes, from_vm);
    }
    for group in [
        "224.0.0.251",
        "239.1.2.3",
        "255.255.255.255",
        "ff02::fb",
        "ff0e::1",
    ] {
        let ends = to(group.parse::<IpAddr>().unwrap());
        let bytes = packet::udp(&ends, (4_000, 5_353), b"to many");
        check_silent(&mut scene, group, &bytes, from_vm);
    }
    let later = packet::udp(
        &Ends {
            ttl: 1,
            ..to(REMOTE_V4)
        },
        (4_000, 53),
        b"a later fragment",
    );
    check_silent(
        &mut scene,
        "a later fragment",
        &packet::with_header_checksum(changed(later, 20, &[0, 9])),
        from_vm,
    );
    let spoofed = packet::udp(
        &Ends {
            ttl: 1,
            ..to(REMOTE_V4)
        }
        .from(REMOTE_V4),
        (4_000, 53),
        b"",
    );
    check_silent(&mut scene, "another's address", &spoofed, from_vm);
}

#[test]
fn the_world_learns_nothing_by_what_belongs_to_no_flow() {
    let mut scene = Scene::usual();
    for remote in REMOTES {
        let stray = packet::udp(
            &Ends {
                ttl: 1,
                ..back(remote)
            },
            (53, 20_000),
            &[7; 1_500],
        );
        let outcome = scene.from_uplink(&stray);
        assert_eq!((outcome.verdict, &outcome.bytes), (verdict::NEXT, &stray));
    }
}

/// How many errors of so many packets are sent to this interface, of which each one must be answered or dropped.
fn errors_of(scene: &mut Scene, tap: u32, count: u64) -> u64 {
    let context = Context {
        ifindex: tap,
        ingress_ifindex: tap,
        ..scene::FROM_VM
    };
    let sent = packet::udp(
        &Ends {
            ttl: 1,
            ..to(REMOTE_V4)
        },
        (4_000, 53),
        b"the last hop",
    );
    let told = (0..count).filter(|_| {
        let outcome = scene
            .datapath
            .run(netagent_common::names::FROM_VM, &sent, context);
        let is_told = Packet::parse(&outcome.bytes).is_some_and(|packet| packet.kind == 11);
        assert_eq!(outcome.verdict == verdict::REDIRECT, is_told);
        is_told
    });
    told.count() as u64
}

#[test]
fn errors_are_limited_for_each_interface_and_every_drop_is_counted() {
    const SENT: u64 = 400;
    let (per_second, burst) = ICMP_ERRORS_PER_SECOND;
    let mut scene = Scene::usual();
    scene.add_other(scene::record());
    let started = deadline::now();
    let told = errors_of(&mut scene, scene::TAP, SENT);
    let elapsed: Duration = started.elapsed();
    let most = burst + elapsed.as_millis() as u64 * per_second / 1_000 + 1;
    assert!((burst..=most).contains(&told), "{told} of at most {most}");
    assert!(told < SENT, "the limit is reached");
    let drops = scene.datapath.drops();
    assert_eq!(drops, [((SLOT, DropReason::TtlExpired), SENT)].into());
    assert_eq!(
        errors_of(&mut scene, scene::OTHER_TAP, 10),
        10,
        "another interface has its own"
    );
}
