//! The MSS that both ends of a connection announce.

use std::net::IpAddr;

use netagent_common::net::tcp_flag::{ACK, SYN};
use netagent_common::policy::RouteKind;
use netagent_tests::packet::{self, Ends, Packet};
use netagent_tests::prog_run::verdict;
use netagent_tests::route::RouteTo;
use netagent_tests::scene::{self, REMOTE_V4, REMOTE_V6, Scene, back, to};

const FAR: [IpAddr; 2] = [IpAddr::V4(REMOTE_V4), IpAddr::V6(REMOTE_V6)];

/// A segment with options, and bytes behind them.
fn segment(ends: &Ends, (src_port, dst_port): (u16, u16), flags: u8, options: &[u8]) -> Vec<u8> {
    assert!(options.len().is_multiple_of(4) && options.len() <= 40);
    let mut header = Vec::new();
    header.extend(src_port.to_be_bytes());
    header.extend(dst_port.to_be_bytes());
    header.extend([0, 0, 0, 7, 0, 0, 0, 9]);
    header.extend([
        (5 + options.len() as u8 / 4) << 4,
        flags,
        0xfa,
        0,
        0,
        0,
        0,
        0,
    ]);
    header.extend(options);
    header.extend(b"early data.");
    let mut bytes = packet::ip(ends, 6, &header);
    let checksum = packet::transport_checksum(&bytes).unwrap();
    let start = packet::transport(&bytes).unwrap().start;
    bytes[start + 16..start + 18].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// The options of a segment.
fn options(bytes: &[u8]) -> Vec<u8> {
    let found = packet::transport(bytes).unwrap();
    bytes[found.start + 20..found.payload].to_vec()
}

/// Options with an MSS at every place where one is seen, and some where none is.
fn rows(mss: u16) -> Vec<(&'static str, Vec<u8>)> {
    let [high, low] = mss.to_be_bytes();
    let option = [2, 4, high, low];
    let mut late = vec![1; 36];
    late.extend(option);
    let mut odd = vec![1, 3, 3, 7, 1];
    odd.extend(option);
    odd.extend([4, 2, 0]);
    vec![
        ("alone", option.to_vec()),
        (
            "as Linux has it",
            [
                &option[..],
                &[4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7],
            ]
            .concat(),
        ),
        ("last", late),
        ("at an odd place", odd),
        (
            "behind what nobody knows",
            [&[254, 6, 1, 2, 3, 4, 1, 1][..], &option].concat(),
        ),
    ]
}

/// The guest's connection with a route of this MTU.
fn narrowed(scene: &mut Scene, remote: IpAddr, mtu: u32) {
    let route = RouteTo {
        mtu,
        ..scene::route(RouteKind::Uplink, remote.is_ipv4(), true)
    };
    scene.change_route(remote, &route);
}

/// What the other side sees of options that one side sent.
fn seen(scene: &mut Scene, remote: IpAddr, (flags, sent): (u8, &[u8])) -> [Vec<u8>; 2] {
    let out = scene.from_vm(&segment(&to(remote), (4_000, 80), flags, sent));
    assert_eq!(
        out.verdict,
        verdict::REDIRECT,
        "{:?}",
        scene.datapath.drops()
    );
    packet::assert_checksums(&out.bytes);
    let nat_port = Packet::parse(&out.bytes).unwrap().ports.0;
    let into = scene.from_uplink(&segment(&back(remote), (80, nat_port), flags | ACK, sent));
    assert_eq!(
        into.verdict,
        verdict::REDIRECT,
        "{:?}",
        scene.datapath.drops()
    );
    packet::assert_checksums(&into.bytes);
    [options(&out.bytes), options(&into.bytes)]
}

#[test]
fn an_mss_larger_than_the_way_is_lowered_wherever_it_stands() {
    for remote in FAR {
        let headers = if remote.is_ipv4() { 40 } else { 60 };
        // The way is the narrower one, then the guest's TAP.
        for (way, tap) in [(1_300, 1_500), (1_500, 1_280)] {
            let mut scene = Scene::usual();
            let mut record = scene::record();
            record.mtu = tap;
            scene.datapath.set_interface(&record);
            narrowed(&mut scene, remote, way);
            let limit = way.min(tap) as u16 - headers;
            for (mss, expected) in [
                (1_460, limit),
                (0xffff, limit),
                (limit + 1, limit),
                (limit, limit),
                (536, 536),
                (0, 0),
            ] {
                for ((what, sent), (_, expected)) in rows(mss).into_iter().zip(rows(expected)) {
                    let seen = seen(&mut scene, remote, (SYN, &sent));
                    assert_eq!(
                        seen,
                        [expected.clone(), expected],
                        "{what}: {mss}, {remote}"
                    );
                }
            }
        }
    }
}

#[test]
fn nothing_else_of_a_segment_changes() {
    for remote in FAR {
        let mut scene = Scene::usual();
        narrowed(&mut scene, remote, 1_300);
        seen(&mut scene, remote, (SYN, &[]));
        let large = [2, 4, 0xff, 0xff];
        let table: [(&str, u8, &[u8]); 8] = [
            ("no SYN", ACK, &large),
            ("no options", SYN, &[]),
            ("behind the end", SYN, &[0, 1, 1, 1, 2, 4, 0xff, 0xff]),
            ("another length", SYN, &[2, 3, 0xff, 0xff]),
            ("another length", SYN, &[2, 8, 0xff, 0xff, 1, 1, 1, 1]),
            ("no length", SYN, &[254, 0, 2, 4, 0xff, 0xff, 1, 1]),
            ("cut off", SYN, &[1, 2, 4, 0xff]),
            (
                "longer than the options",
                SYN,
                &[254, 255, 1, 1, 2, 4, 0xff, 0xff],
            ),
        ];
        for (what, flags, sent) in table {
            let seen = seen(&mut scene, remote, (flags, sent));
            assert_eq!(seen, [sent, sent], "{what}, {remote}");
        }
    }
}
