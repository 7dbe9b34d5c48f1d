//! A guest that lies: every frame is dropped and counted for its reason, and none of it reaches the world, another
//! guest or the host, even where the host forwards.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::drop::DropReason;
use netagent_common::net::tcp_flag;
use netagent_tests::coverage;
use netagent_tests::deadline::{Deadline, SOON, wait_until};
use netagent_tests::fragment;
use netagent_tests::frame::{Frame, NEEDS_CHECKSUM, VnetHeader};
use netagent_tests::guest::Guest;
use netagent_tests::neighbour::{self, Claim, icmpv6};
use netagent_tests::packet::{self, Ends, Packet, Segment};
use netagent_tests::tap::Header;
use netagent_tests::world::{HOST_V4, HOST_V6, SILENT, World};

use crate::surroundings::Surroundings;

fn udp(ends: &Ends) -> Frame {
    Frame::plain(packet::udp(ends, (4_000, 5_000), b"what leaks"))
}

fn check_tags(scene: &Surroundings) {
    let bytes = packet::udp(&scene.nic().to(SILENT[0]), (4_000, 5_000), b"tagged");
    let mut frames = Vec::new();
    for number in [0, 1, 100, 4_095] {
        for kind in [0x8100, 0x88a8] {
            let tagged = packet::tagged(&bytes, kind, number);
            frames.push(Frame::plain(packet::tagged(&tagged, 0x8100, 7)));
            frames.push(Frame::plain(tagged));
        }
    }
    frames.push(Frame::plain(packet::tagged(
        &neighbour::arp_request(
            Claim {
                mac: scene.nic().mac,
                ip: scene.nic().v4,
            },
            scene.nic().gateway_v4,
        ),
        0x8100,
        5,
    )));
    scene.check(DropReason::Vlan, &frames);
}

/// A checksum "to be computed" would be written over what was judged: over the source address, for one.
fn check_virtio_headers(scene: &Surroundings) {
    let frames: Vec<Frame> = misplaced(scene).collect();
    scene.check_accepted(DropReason::PartialChecksum, &frames);
}

/// Frames of every kind whose checksum is to be written where their own is not.
fn misplaced(scene: &Surroundings) -> impl Iterator<Item = Frame> {
    const V4: usize = 14 + 20;
    const V6: usize = 14 + 40;
    let nic = scene.nic();
    let (v4, v6) = (nic.to(SILENT[0]), nic.to(SILENT[1]));
    let (ports, gateway) = ((4_000, 5_000), "fe80::1".parse().unwrap());
    let segment = Segment {
        src_port: 4_000,
        dst_port: 5_000,
        flags: tcp_flag::ACK,
        ..Segment::default()
    };
    let echo = |ends| packet::echo_request(&ends, (1, 1), &[0; 64]);
    let query = |ends| packet::udp(&ends, (4_000, 53), &[0; 64]);
    let link_local: Ipv6Addr = "fe80::6".parse().unwrap();
    let from_link = nic.to(nic.gateway(false)).from(link_local);
    let discover = Ends {
        dst_mac: neighbour::BROADCAST,
        ..nic.to(Ipv4Addr::BROADCAST).from(Ipv4Addr::UNSPECIFIED)
    };
    let routers: Ipv6Addr = "ff02::2".parse().unwrap();
    let to_routers = Ends {
        dst_mac: neighbour::multicast_mac(routers),
        ttl: 255,
        ..nic.to(routers).from(link_local)
    };
    let solicit = (icmpv6::ROUTER_SOLICITATION, 0);
    // Bytes of a frame, and the right place of its checksum.
    let frames = [
        (packet::udp(&v4, ports, &[0; 64]), (V4, 6)),
        (packet::udp(&v6, ports, &[0; 64]), (V6, 6)),
        (packet::tcp(&v4, segment, &[0; 64]), (V4, 16)),
        (packet::tcp(&v6, segment, &[0; 64]), (V6, 16)),
        (echo(v4), (V4, 2)),
        (echo(v6), (V6, 2)),
        (echo(nic.to(nic.gateway(true))), (V4, 2)),
        (echo(nic.to(nic.gateway(false))), (V6, 2)),
        (neighbour::solicitation(nic.mac, nic.v6, gateway), (V6, 2)),
        (neighbour::advertisement(&v6, nic.v6, nic.mac), (V6, 2)),
        (query(nic.to(nic.gateway(true))), (V4, 6)),
        (query(from_link), (V6, 6)),
        (packet::udp(&discover, (68, 67), &[0; 300]), (V4, 6)),
        (packet::icmp(&to_routers, solicit, &[0; 20]), (V6, 2)),
    ];
    frames.into_iter().flat_map(|(bytes, (start, offset))| {
        let places = [
            (14, 12),
            (20, 6),
            (26, 0),
            (42, 2),
            (60, 6),
            (start, offset + 2),
            (start + 2, offset),
            // The same field, of a sum that begins elsewhere.
            (start - 2, offset + 2),
            (0, start + offset),
        ];
        places.map(|(start, offset)| Frame {
            vnet: VnetHeader {
                flags: NEEDS_CHECKSUM,
                checksum_start: start as u16,
                checksum_offset: offset as u16,
                ..VnetHeader::default()
            },
            bytes: bytes.clone(),
        })
    })
}

/// What a program run alone cannot be given: less than an IP header.
fn check_runts(scene: &Surroundings) {
    let (v4, v6) = (SILENT[0], SILENT[1]);
    let bytes = |remote| packet::udp(&scene.nic().to(remote), (4_000, 5_000), b"short");
    let cut = |remote, length: usize| Frame::plain(bytes(remote)[..length].to_vec());
    let frames = [14, 15, 24, 33].map(|length| cut(v4, length));
    scene.check(DropReason::Malformed, &frames);
    scene.check(
        DropReason::Malformed,
        &[14, 34, 53].map(|length| cut(v6, length)),
    );
    scene.check(DropReason::Malformed, &[cut(v4, 38), cut(v6, 58)]);
}

fn check_spoofs(scene: &Surroundings) {
    let (nic, victim) = (scene.nic(), scene.victim.nic());
    let [v4, v6] = [nic.to(SILENT[0]), nic.to(SILENT[1])];
    let foreign_mac = |ends: Ends| {
        udp(&Ends {
            src_mac: victim.mac,
            ..ends
        })
    };
    scene.check(DropReason::SpoofedMac, &[foreign_mac(v4), foreign_mac(v6)]);
    let link_local: Ipv6Addr = "fe80::2".parse().unwrap();
    scene.check(
        DropReason::SpoofedAddress,
        &[
            udp(&v4.from(victim.v4)),
            udp(&v4.from(HOST_V4)),
            udp(&v4.from(nic.gateway_v4)),
            udp(&v4.from(Ipv4Addr::LOCALHOST)),
            udp(&v6.from(victim.v6)),
            udp(&v6.from(HOST_V6)),
            udp(&v6.from(link_local)),
        ],
    );
    let claim = Claim {
        mac: nic.mac,
        ip: victim.v4,
    };
    scene.check(
        DropReason::SpoofedArp,
        &[Frame::plain(neighbour::arp_request(claim, nic.gateway_v4))],
    );
    let advertisement = neighbour::advertisement(&nic.to(victim.v6), victim.v6, nic.mac);
    let question = neighbour::solicitation(nic.mac, victim.v6, "fe80::1".parse().unwrap());
    scene.check(
        DropReason::SpoofedNeighbour,
        &[Frame::plain(advertisement), Frame::plain(question)],
    );
}

fn check_rogues(scene: &Surroundings) {
    let nic = scene.nic();
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let ends = Ends {
        dst_mac: neighbour::multicast_mac(all_nodes),
        ttl: 255,
        ..nic.to(all_nodes)
    };
    let local = ends.from("fe80::2".parse::<Ipv6Addr>().unwrap());
    let message = |kind| Frame::plain(packet::icmp(&local, (kind, 0), &[0; 36]));
    let messages = [
        message(icmpv6::ROUTER_ADVERTISEMENT),
        message(icmpv6::REDIRECT),
    ];
    scene.check(DropReason::RogueRouter, &messages);
    let offers = [
        Frame::plain(neighbour::dhcp_offer(nic.mac, nic.v4)),
        Frame::plain(neighbour::dhcpv6_reply(&nic.to(SILENT[1]))),
    ];
    scene.check(DropReason::RogueDhcp, &offers);
}

fn check_destinations(scene: &Surroundings) {
    let (nic, victim) = (scene.nic(), scene.victim.nic());
    let to = |address: IpAddr| {
        let ends = nic.to(address);
        [
            udp(&ends),
            Frame::plain(packet::echo_request(&ends, (1, 1), b"anybody")),
        ]
    };
    let check = |reason, addresses: &[IpAddr]| {
        scene.check(
            reason,
            &addresses
                .iter()
                .flat_map(|address| to(*address))
                .collect::<Vec<_>>(),
        );
    };
    let parsed = |text: &str| text.parse::<IpAddr>().unwrap();
    let denied = [
        "169.254.169.254",
        "169.254.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "198.51.100.255",
        "0.0.0.0",
        "fd00:ec2::254",
        "::1",
        "ff02::1",
        "ff0e::1",
        "fe80::7",
    ];
    check(DropReason::AlwaysDenied, &denied.map(parsed));
    check(DropReason::HostAddress, &[HOST_V4.into(), HOST_V6.into()]);
    let others = [victim.v4.into(), victim.v6.into(), victim.gateway_v4.into()];
    check(DropReason::OtherInstance, &others);
    let closed = [
        udp(&nic.to(nic.gateway_v4)),
        udp(&nic.to(nic.gateway(false))),
    ];
    scene.check(DropReason::GatewayClosed, &closed);
}

fn check_paths(scene: &Surroundings) {
    let nic = scene.nic();
    for remote in SILENT {
        let ends = nic.to(remote);
        scene.check(
            DropReason::TtlExpired,
            &[udp(&Ends { ttl: 1, ..ends }), udp(&Ends { ttl: 0, ..ends })],
        );
        let kind = if remote.is_ipv4() { 3 } else { 1 };
        scene.check(
            DropReason::IcmpError,
            &[Frame::plain(packet::icmp(&ends, (kind, 1), &[0; 48]))],
        );
        let gre = Frame::plain(packet::ip(&ends, 47, &[0; 40]));
        scene.check(DropReason::UnknownProtocol, &[gre]);
    }
    let lldp = packet::ethernet([1, 0x80, 0xc2, 0, 0, 0xe], nic.mac, 0x88cc, &[0; 46]);
    scene.check(DropReason::UnknownEthertype, &[Frame::plain(lldp)]);
    for remote in SILENT {
        let whole = packet::udp(&nic.to(remote), (4_000, 5_000), &[0; 64]);
        let later = fragment::fragment(&whole, (16, 40), 7);
        scene.check(DropReason::Fragment, &[Frame::plain(later)]);
    }
    let hop_by_hop = packet::ip(&nic.to(SILENT[1]), 0, &[17, 0, 1, 4, 0, 0, 0, 0]);
    scene.check(DropReason::IpOptions, &[Frame::plain(hop_by_hop)]);
}

fn check_all(configuration: &str) {
    let scene = Surroundings::new(configuration);
    check_tags(&scene);
    check_virtio_headers(&scene);
    check_spoofs(&scene);
    check_rogues(&scene);
    check_destinations(&scene);
    check_paths(&scene);
    check_runts(&scene);
}

#[test]
fn what_a_guest_may_not_send_is_dropped_and_counted_by_tcx() {
    check_all("");
}

#[test]
fn what_a_guest_may_not_send_is_dropped_and_counted_by_clsact() {
    check_all("[datapath]\nattach = \"clsact\"\n");
}

#[test]
fn the_reasons_left_to_these_tests_are_reached_here() {
    // A reason added to the list needs a check above.
    assert_eq!(
        coverage::SYSTEM,
        [DropReason::Vlan, DropReason::PartialChecksum]
    );
}

#[test]
fn what_is_larger_than_the_way_out_is_dropped_and_counted() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "large", Header::Vnet);
    let wire = world.wire();
    let nic = guest.nic();
    // TAPs have the uplink's MTU; the guest's side of a TAP may send more all the same.
    for remote in SILENT {
        let headers = if remote.is_ipv4() { 28 } else { 48 };
        nic.tap.send_bytes(packet::udp(
            &nic.to(remote),
            (1, 2),
            &vec![1; 1_501 - headers],
        ));
        nic.tap.send_bytes(packet::udp(
            &nic.to(remote),
            (1, 2),
            &vec![2; 1_500 - headers],
        ));
        let first = wire.receive_where(Deadline::after(SOON), |received| {
            let packet = Packet::parse(&received.frame.bytes)?;
            (packet.ends.dst == remote).then_some(packet.payload[0])
        });
        assert_eq!(first, 2, "{remote}: 1,500 bytes fit and 1,501 do not");
    }
    wait_until("the drops are counted", SOON, || {
        agent.drops("large").get("too_big") == Some(&4)
    });
}
