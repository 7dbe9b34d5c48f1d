//! ICMP errors of the datapath's own: to whom, from whom, about what, and how many.

use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::net::GATEWAY_MAC;
use netagent_common::policy::RouteKind;
use netagent_tests::fragment::fragments;
use netagent_tests::packet::{self, Ends, hex};
use netagent_tests::prog_run::{Context, MARK, Sizes, verdict};
use netagent_tests::route::RouteTo;
use netagent_tests::scene::{self, GUEST_MAC, REMOTE_V4, REMOTE_V6, SLOT, Scene, back, to};

use crate::drops::REMOTES;
use crate::nat::{self, Build, PROTOCOLS};
use crate::quotes::error;
use crate::silence::check_silent;

pub(crate) type Report = ((u8, u8), [u8; 4]);

const fn too_big(is_v4: bool, mtu: u16) -> Report {
    let [high, low] = mtu.to_be_bytes();
    (if is_v4 { (3, 4) } else { (2, 0) }, [0, 0, high, low])
}

const fn time_exceeded(is_v4: bool) -> Report {
    (if is_v4 { (11, 0) } else { (3, 0) }, [0; 4])
}

const fn prohibited(is_v4: bool) -> Report {
    (if is_v4 { (3, 13) } else { (1, 1) }, [0; 4])
}

pub(crate) const fn no_route(is_v4: bool) -> Report {
    (if is_v4 { (3, 0) } else { (1, 0) }, [0; 4])
}

/// How much of a packet is quoted.
fn quoted_len(is_v4: bool) -> usize {
    if is_v4 { 28 } else { 48 }
}

/// An error of IPv4 as routers write it: with precedence (RFC 1812, section 4.3.2.5), not to be fragmented.
fn of_router(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes[12..14] == [8, 0] {
        bytes[15] = 0xc0;
        bytes[18..22].copy_from_slice(&[0, 0, 0x40, 0]);
        return packet::with_header_checksum(bytes);
    }
    bytes
}

/// The error that the guest gets about a frame of its own.
fn to_guest(sent: &[u8], gateway: IpAddr, report: Report) -> Vec<u8> {
    let is_v4 = gateway.is_ipv4();
    let ends = Ends {
        src_mac: GATEWAY_MAC,
        dst_mac: GUEST_MAC,
        src: gateway,
        dst: if is_v4 {
            scene::GUEST_V4.into()
        } else {
            scene::GUEST_V6.into()
        },
        ttl: 64,
    };
    of_router(error(&ends, report, (sent, quoted_len(is_v4))))
}

fn gateway(is_v4: bool) -> IpAddr {
    if is_v4 {
        scene::GATEWAY_V4.into()
    } else {
        scene::gateway_v6().into()
    }
}

/// The guest sends a frame, and is told this; the drop is counted for its reason.
pub(crate) fn check_told(scene: &mut Scene, sent: &[u8], (reason, report): (DropReason, Report)) {
    let is_v4 = sent[12..14] == [8, 0];
    check_told_by(scene, sent, (reason, report), gateway(is_v4));
}

fn check_told_by(
    scene: &mut Scene,
    sent: &[u8],
    (reason, report): (DropReason, Report),
    by: IpAddr,
) {
    let before = scene.datapath.drops();
    let outcome = scene.from_vm(sent);
    let mut counted = scene.datapath.drops();
    counted.retain(|key, count| before.get(key) != Some(count));
    assert_eq!(
        counted.into_keys().collect::<Vec<_>>(),
        [(SLOT, reason)],
        "{}",
        hex(sent)
    );
    assert_eq!(
        (outcome.verdict, outcome.mark),
        (verdict::REDIRECT, MARK),
        "{reason:?}"
    );
    packet::assert_checksums(&outcome.bytes);
    assert_eq!(
        hex(&outcome.bytes),
        hex(&to_guest(sent, by, report)),
        "{reason:?}"
    );
    // What `to_vm` sees lets it pass.
    let context = Context {
        mark: MARK,
        ..scene::FROM_HOST
    };
    let passed = scene
        .datapath
        .run(netagent_common::names::TO_VM, &outcome.bytes, context);
    assert_eq!(passed.verdict, verdict::NEXT);
}

fn request(ends: &Ends, (id, _): (u16, u16), payload: &[u8]) -> Vec<u8> {
    packet::echo_request(ends, (id, 3), payload)
}

const BUILDS: [Build; 3] = [packet::udp, nat::tcp_segment, request];

#[test]
fn a_guest_is_told_why_its_packet_goes_nowhere() {
    use DropReason::{
        AlwaysDenied, HostAddress, NoRoute, NotUplink, OtherInstance, TooBig, TtlExpired,
    };
    for build in BUILDS {
        // Of its own, since errors are limited.
        let mut scene = Scene::usual();
        for remote in REMOTES {
            let is_v4 = remote.is_ipv4();
            for ttl in [0, 1] {
                let sent = build(&Ends { ttl, ..to(remote) }, (4_000, 53), b"the last hop");
                check_told(&mut scene, &sent, (TtlExpired, time_exceeded(is_v4)));
            }
            let sent = build(&to(remote), (4_000, 53), &[7; 1_500]);
            check_told(&mut scene, &sent, (TooBig, too_big(is_v4, 1_500)));
        }
        let refused = [
            (AlwaysDenied, "169.254.169.254"),
            (AlwaysDenied, "127.0.0.1"),
            (AlwaysDenied, "fe80::9"),
            (HostAddress, "198.51.100.2"),
            (HostAddress, "2001:db8:100::2"),
            (OtherInstance, "172.16.0.18"),
            (OtherInstance, "fd00:a:b:4::2"),
            (NotUplink, "10.9.0.1"),
            (NotUplink, "fd09::1"),
            (NoRoute, "192.0.2.1"),
            (NoRoute, "2001:db8:300::1"),
        ];
        for (reason, address) in refused {
            let address: IpAddr = address.parse().unwrap();
            let sent = build(&to(address), (4_000, 53), b"refused");
            let report = if reason == NoRoute {
                no_route
            } else {
                prohibited
            };
            check_told(&mut scene, &sent, (reason, report(address.is_ipv4())));
        }
    }
}

#[test]
fn a_guest_is_told_that_the_gateway_is_closed_and_that_nothing_is_left() {
    use DropReason::{FlowLimit, FlowTableFull, GatewayClosed, SnatExhausted};
    let usual = || (Sizes::default(), scene::record());
    let mut cases = vec![(usual(), GatewayClosed, gateway as fn(bool) -> IpAddr)];
    let remote = |is_v4| if is_v4 { REMOTES[0] } else { REMOTES[1] };
    let (mut sizes, mut record) = usual();
    sizes.nat_port_count = 1;
    cases.push(((sizes, record), SnatExhausted, remote));
    sizes = Sizes {
        flows_max: 1,
        ..Sizes::default()
    };
    cases.push(((sizes, record), FlowTableFull, remote));
    record.flow_limit = 2;
    cases.push(((Sizes::default(), record), FlowLimit, remote));
    for ((sizes, record), reason, destination) in cases {
        let mut scene = Scene::new(sizes, &record);
        for remote in REMOTES {
            scene.from_vm(&packet::udp(&to(remote), (3_999, 22), b"the first"));
        }
        for is_v4 in [true, false] {
            for build in [packet::udp as Build, nat::tcp_segment] {
                let sent = build(&to(destination(is_v4)), (4_000, 22), b"one more");
                // Another protocol has ports of its own.
                if reason != SnatExhausted || sent[23] == 17 || sent[20] == 17 {
                    check_told(&mut scene, &sent, (reason, prohibited(is_v4)));
                }
            }
        }
    }
}

#[test]
fn the_gateway_that_the_guest_was_told_speaks() {
    let mut record = scene::record();
    record.instance_gateway_v4 = [10, 99, 0, 1];
    let mut scene = Scene::new(Sizes::default(), &record);
    let sent = packet::udp(
        &Ends {
            ttl: 1,
            ..to(REMOTE_V4)
        },
        (4_000, 53),
        b"last hop",
    );
    let expected = (DropReason::TtlExpired, time_exceeded(true));
    check_told_by(&mut scene, &sent, expected, IpAddr::from([10, 99, 0, 1]));

    (record.instance_gateway_v4, record.gateway_v4) = ([0; 4], [0; 4]);
    scene.datapath.set_interface(&record);
    check_silent(
        &mut scene,
        "nobody is there to say it",
        &sent,
        |scene, sent| scene.from_vm(sent),
    );
}

#[test]
fn the_mtu_of_the_flows_way_is_told() {
    for (remote, mtu) in [(REMOTES[0], 1_300), (REMOTES[1], 1_400)] {
        let mut scene = Scene::usual();
        let narrow = RouteTo {
            mtu: mtu.into(),
            ..scene::route(RouteKind::Uplink, remote.is_ipv4(), true)
        };
        scene.change_route(remote, &narrow);
        let headers = if remote.is_ipv4() { 28 } else { 48 };
        for build in [packet::udp as Build, request] {
            let fitting = build(
                &to(remote),
                (4_000, 53),
                &vec![1; usize::from(mtu) - headers],
            );
            assert_eq!(scene.from_vm(&fitting).verdict, verdict::REDIRECT);
            let larger = build(
                &to(remote),
                (4_000, 53),
                &vec![1; usize::from(mtu) - headers + 1],
            );
            let report = too_big(remote.is_ipv4(), mtu);
            check_told(&mut scene, &larger, (DropReason::TooBig, report));
        }
        // The segments of a super-frame count, not its length.
        let segments = nat::tcp_segment(&to(remote), (4_000, 53), &[7; 3_000]);
        assert_eq!(
            scene.super_frame_from_vm(&segments, 1_000).verdict,
            verdict::REDIRECT
        );
        let outcome = scene.super_frame_from_vm(&segments, 1_399);
        let expected = to_guest(
            &segments,
            gateway(remote.is_ipv4()),
            too_big(remote.is_ipv4(), mtu),
        );
        assert_eq!(
            (outcome.verdict, hex(&outcome.bytes)),
            (verdict::REDIRECT, hex(&expected))
        );
    }
}

#[test]
fn a_guest_is_told_about_its_first_fragments_and_no_later_ones() {
    let mut scene = Scene::usual();
    for remote in REMOTES {
        let (is_v4, mtu) = (remote.is_ipv4(), 1_300);
        let narrow = RouteTo {
            mtu,
            ..scene::route(RouteKind::Uplink, is_v4, true)
        };
        scene.change_route(remote, &narrow);
        let whole = packet::udp(&to(remote), (4_000, 53), &[7; 4_000]);
        let mut pieces = fragments(&whole, 1_400, 9);
        if is_v4 {
            // One that may not be cut further.
            for piece in &mut pieces {
                piece[20] |= 0x40;
                *piece = packet::with_header_checksum(std::mem::take(piece));
            }
        }
        let outcome = scene.from_vm(&pieces[0]);
        assert_eq!(
            outcome.verdict,
            verdict::REDIRECT,
            "{:?}",
            scene.datapath.drops()
        );
        packet::assert_checksums(&outcome.bytes);
        let quoted = outcome.bytes[if is_v4 { 42 } else { 62 }..].to_vec();
        let length = if is_v4 { 28 } else { 56 };
        assert_eq!(hex(&quoted), hex(&pieces[0][14..14 + length]));
        let (report, _) = too_big(is_v4, 1_300);
        let start = if is_v4 { 34 } else { 54 };
        assert_eq!(outcome.bytes[start..start + 2], [report.0, report.1]);
        assert_eq!(outcome.bytes[start + 6..start + 8], [5, 20], "the MTU");
        assert_eq!(scene.from_vm(&pieces[1]).verdict, verdict::DROP);
    }
}

#[test]
fn the_world_is_told_what_cannot_go_on_to_the_guest() {
    let mut scene = Scene::usual();
    let mut record = scene::record();
    record.mtu = 1_400;
    scene.datapath.set_interface(&record);
    for remote in [REMOTE_V4.into(), IpAddr::V6(REMOTE_V6)] {
        let is_v4 = remote.is_ipv4();
        for protocol in PROTOCOLS {
            let nat_port = nat::check_both_ways(&mut scene, remote, protocol, 4_000);
            let ends = back(remote);
            let cases = [
                (Ends { ttl: 1, ..ends }, 10, time_exceeded(is_v4)),
                (ends, 1_400, too_big(is_v4, 1_400)),
            ];
            for (ends, length, report) in cases {
                let sent = protocol.1(&ends, (53, nat_port), &vec![7; length]);
                let outcome = scene.from_uplink(&sent);
                assert_eq!(
                    outcome.verdict,
                    verdict::REDIRECT,
                    "{:?}",
                    scene.datapath.drops()
                );
                let ends = Ends {
                    ttl: 64,
                    ..ends.reversed()
                };
                let expected = of_router(error(&ends, report, (&sent, quoted_len(is_v4))));
                assert_eq!(hex(&outcome.bytes), hex(&expected));
                packet::assert_checksums(&outcome.bytes);
            }
        }
    }
    let drops = scene.datapath.drops();
    assert_eq!(
        drops.get(&(SLOT, DropReason::TooBig)),
        Some(&6),
        "{drops:?}"
    );
    assert_eq!(
        drops.get(&(SLOT, DropReason::TtlExpired)),
        Some(&6),
        "{drops:?}"
    );
}
