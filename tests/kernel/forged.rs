//! ICMP errors that nobody gets: forged, spoilt, or about nothing that was sent.

use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::names::FROM_UPLINK;
use netagent_tests::fragment::fragment;
use netagent_tests::packet::{self, Ends, Packet};
use netagent_tests::prog_run::{Context, Outcome, verdict};
use netagent_tests::scene::{self, OTHER_SLOT, SLOT, Scene, back, to};

use crate::frames::changed;
use crate::nat::{self, PROTOCOLS, REMOTES};
use crate::quotes::{PAYLOAD, delivered, error, opened, reports, router};

/// Runs a packet that must be dropped for this reason, and counted so once.
fn check_dropped(
    scene: &mut Scene,
    reason: DropReason,
    what: &str,
    run: impl FnOnce(&mut Scene) -> Outcome,
) {
    let count = |scene: &mut Scene| {
        scene
            .datapath
            .drops()
            .get(&(SLOT, reason))
            .copied()
            .unwrap_or(0)
    };
    let before = count(scene);
    let outcome = run(scene);
    let counted = count(scene) - before;
    assert_eq!(
        (outcome.verdict, counted),
        (verdict::DROP, 1),
        "{what}: {:?}",
        scene.datapath.drops()
    );
}

/// Errors that are believed from nobody, about a packet that is quoted right.
fn disbelieved(is_v4: bool) -> Vec<(u8, u8)> {
    if is_v4 {
        vec![(4, 0), (5, 0), (5, 1)]
    } else {
        vec![(0, 0), (5, 0), (100, 0), (127, 0)]
    }
}

/// A quoted packet, spoilt: what, and the frame that it is cut from.
fn spoilt(good: &[u8], is_v4: bool) -> Vec<(&'static str, Vec<u8>)> {
    if is_v4 {
        vec![
            ("options", changed(good.to_vec(), 14, &[0x46])),
            ("another version", changed(good.to_vec(), 14, &[0x65])),
            ("a later fragment", changed(good.to_vec(), 20, &[0, 9])),
            (
                "a later fragment with more to come",
                changed(good.to_vec(), 20, &[0x20, 1]),
            ),
        ]
    } else {
        let mut rows = vec![("another version", changed(good.to_vec(), 14, &[0x45]))];
        for header in [0, 43, 44, 60] {
            rows.push(("an extension header", changed(good.to_vec(), 20, &[header])));
        }
        let later = fragment(good, (8, 8), 7);
        rows.push(("a later fragment", [later.as_slice(), &[0; 64]].concat()));
        rows
    }
}

/// Errors of the guest about anything but the packet that it was sent.
fn unfounded(remote: IpAddr, (arrived, nat_port): (&[u8], u16)) -> Vec<(&'static str, Vec<u8>)> {
    let is_v4 = remote.is_ipv4();
    let (ends, into) = (to(remote), delivered(remote, remote));
    let about = |quoted: &[u8]| error(&ends, reports(is_v4)[0], (quoted, 1_000));
    let mut bad = Vec::new();
    for kind in disbelieved(is_v4) {
        bad.push(("a type", error(&ends, (kind, [0; 4]), (arrived, 1_000))));
    }
    for (what, spoilt) in spoilt(arrived, is_v4) {
        bad.push((what, about(&spoilt)));
    }
    let short = if is_v4 { 27 } else { 47 };
    let short = error(&ends, reports(is_v4)[0], (arrived, short));
    let padded = [short.as_slice(), &[0; 40]].concat();
    bad.push(("cut short", short));
    bad.push(("cut short, and padding behind it", padded));
    let elsewhere = to(router(remote));
    let elsewhere = error(&elsewhere, reports(is_v4)[0], (arrived, 1_000));
    bad.push(("to another", elsewhere));
    let mut unknown = |what, ends: &Ends, ports| {
        let quoted = packet::udp(ends, ports, PAYLOAD);
        let bytes = error(&to(ends.src), reports(is_v4)[0], (&quoted, 1_000));
        bad.push((what, bytes));
    };
    let (other, host) = (into.from(router(remote)), into.to(nat::host(remote)));
    unknown("another port of the guest", &into, (53, 4_001));
    unknown("another port of the world", &into, (54, 4_000));
    unknown("another address of the world", &other, (53, 4_000));
    unknown("its own packet", &into.reversed(), (4_000, 53));
    unknown("the address that stands for it", &host, (53, nat_port));
    let tcp = nat::tcp_segment(&into, (53, 4_000), PAYLOAD);
    bad.push(("another protocol", about(&tcp)));
    let unreachable = error(&into, reports(is_v4)[0], (arrived, 1_000));
    bad.push(("about an error", about(&unreachable)));
    bad
}

#[test]
fn a_guest_sends_no_errors_but_those_about_what_it_was_sent() {
    use DropReason::{IcmpError, NotForGateway, TooBig, TtlExpired};
    let mut scene = Scene::usual();
    for remote in [REMOTES[0], REMOTES[1]] {
        let report = reports(remote.is_ipv4())[0];
        let left = opened(&mut scene, remote, PROTOCOLS[0], 4_000);
        let nat_port = Packet::parse(&left).unwrap().ports.0;
        let answer = packet::udp(&back(remote), (53, nat_port), PAYLOAD);
        let arrived = scene.from_uplink(&answer).bytes;
        for (what, bytes) in unfounded(remote, (&arrived, nat_port)) {
            check_dropped(&mut scene, IcmpError, what, |scene| scene.from_vm(&bytes));
        }
        let ends = to(remote);
        let good = error(&ends, report, (&arrived, 1_000));
        check_dropped(&mut scene, IcmpError, "a super-frame", |scene| {
            scene.super_frame_from_vm(&good, 20)
        });
        let mut large = arrived.clone();
        large.resize(1_600, 0);
        let last = Ends { ttl: 1, ..ends };
        let elsewhere = Ends {
            dst_mac: [2; 6],
            ..ends
        };
        let bad = [
            (TtlExpired, error(&last, report, (&arrived, 1_000))),
            (TooBig, error(&ends, report, (&large, 1_500))),
            (NotForGateway, error(&elsewhere, report, (&arrived, 1_000))),
        ];
        for (reason, bytes) in bad {
            check_dropped(&mut scene, reason, "", |scene| scene.from_vm(&bytes));
        }
        assert_eq!(scene.from_vm(&good).verdict, verdict::REDIRECT);
    }
}

#[test]
fn a_guest_sends_no_errors_about_anothers_flow() {
    let mut scene = Scene::usual();
    scene.add_other(scene::record());
    for remote in REMOTES {
        let left = opened(&mut scene, remote, PROTOCOLS[0], 4_000);
        let nat_port = Packet::parse(&left).unwrap().ports.0;
        let arrived = scene
            .from_uplink(&packet::udp(&back(remote), (53, nat_port), PAYLOAD))
            .bytes;
        let forged = error(&to(remote), reports(remote.is_ipv4())[0], (&arrived, 1_000));
        let outcome = scene.from_other(&forged);
        assert_eq!(outcome.verdict, verdict::DROP);
    }
    let drops = scene.datapath.drops();
    assert_eq!(
        drops,
        [((OTHER_SLOT, DropReason::IcmpError), REMOTES.len() as u64)].into()
    );
}

#[test]
fn errors_about_a_flow_of_an_earlier_instance_are_dropped() {
    for remote in REMOTES {
        let mut scene = Scene::usual();
        let left = opened(&mut scene, remote, PROTOCOLS[0], 4_000);
        let nat_port = Packet::parse(&left).unwrap().ports.0;
        let arrived = scene
            .from_uplink(&packet::udp(&back(remote), (53, nat_port), PAYLOAD))
            .bytes;
        let mut record = scene::record();
        record.generation += 1;
        scene.datapath.set_interface(&record);
        let report = reports(remote.is_ipv4())[0];
        let from_world = error(&back(remote), report, (&left, 1_000));
        assert_eq!(scene.from_uplink(&from_world).verdict, verdict::DROP);
        let from_guest = error(&to(remote), report, (&arrived, 1_000));
        check_dropped(
            &mut scene,
            DropReason::IcmpError,
            "from the guest",
            |scene| scene.from_vm(&from_guest),
        );
    }
}

#[test]
fn an_error_of_the_world_about_no_packet_of_a_guest_is_left_to_the_host() {
    let mut scene = Scene::usual();
    for remote in [REMOTES[0], REMOTES[1]] {
        let is_v4 = remote.is_ipv4();
        let left = opened(&mut scene, remote, PROTOCOLS[0], 4_000);
        let report = reports(is_v4)[0];
        let own = Packet::parse(&left).unwrap();
        let mut strange = spoilt(&left, is_v4);
        let about = |ends: &Ends, ports| packet::udp(ends, ports, PAYLOAD);
        strange.push(("another port", about(&own.ends, (own.ports.0 ^ 1, 53))));
        strange.push(("another remote port", about(&own.ends, (own.ports.0, 54))));
        strange.push((
            "its reverse",
            about(&own.ends.reversed(), (53, own.ports.0)),
        ));
        strange.push((
            "another remote",
            about(&own.ends.to(router(remote)), own.ports),
        ));
        let unreachable = error(&own.ends, report, (&left, 1_000));
        strange.push(("an error", unreachable));
        for (what, quoted) in strange {
            let bytes = error(&back(router(remote)), report, (&quoted, 1_000));
            let outcome = scene.from_uplink(&bytes);
            assert_eq!(
                (outcome.verdict, &outcome.bytes),
                (verdict::NEXT, &bytes),
                "{what}"
            );
        }
        let short = error(&back(remote), report, (&left, if is_v4 { 27 } else { 47 }));
        assert_eq!(
            scene.from_uplink(&short).verdict,
            verdict::NEXT,
            "cut short"
        );
        let good = error(&back(remote), report, (&left, 1_000));
        let first = fragment(&good, (0, 48), 7);
        assert_eq!(
            scene.from_uplink(&first).verdict,
            verdict::NEXT,
            "a fragment"
        );
    }
    assert!(scene.datapath.drops().is_empty());
}

#[test]
fn an_error_of_the_world_that_cannot_be_passed_on_reaches_nobody() {
    use DropReason::{IcmpError, TooBig, TtlExpired};
    let mut scene = Scene::usual();
    for remote in REMOTES {
        let is_v4 = remote.is_ipv4();
        let left = opened(&mut scene, remote, PROTOCOLS[0], 4_000);
        let report = reports(is_v4)[0];
        for kind in disbelieved(is_v4) {
            let bytes = error(&back(remote), (kind, [0; 4]), (&left, 1_000));
            check_dropped(&mut scene, IcmpError, "a type", |scene| {
                scene.from_uplink(&bytes)
            });
        }
        let elsewhere = error(&back(remote).to(router(remote)), report, (&left, 1_000));
        check_dropped(&mut scene, IcmpError, "to another", |scene| {
            scene.from_uplink(&elsewhere)
        });
        let good = error(&back(remote), report, (&left, 1_000));
        let context = Context {
            gso_size: 20,
            ..scene::FROM_UPLINK
        };
        check_dropped(&mut scene, IcmpError, "a super-frame", |scene| {
            scene.datapath.run(FROM_UPLINK, &good, context)
        });
        let last = error(
            &Ends {
                ttl: 1,
                ..back(remote)
            },
            report,
            (&left, 1_000),
        );
        check_dropped(&mut scene, TtlExpired, "no hop left", |scene| {
            scene.from_uplink(&last)
        });
        let mut large = left.clone();
        large.resize(1_600, 0);
        let large = error(&back(remote), report, (&large, 1_500));
        check_dropped(&mut scene, TooBig, "too large", |scene| {
            scene.from_uplink(&large)
        });
    }
}
