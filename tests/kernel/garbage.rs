//! Random and half-random frames: whatever the guest sends, nothing leaves but well-formed packets of its own.

use std::net::{IpAddr, Ipv4Addr};

use netagent_common::names::{FROM_SERVICES, FROM_UPLINK, FROM_VM};
use netagent_common::net::{GATEWAY_MAC, ethertype, protocol};
use netagent_common::services::{Client, SERVICES_HOST_MAC, SERVICES_MAC};
use netagent_tests::fragment;
use netagent_tests::neighbour::icmpv6;
use netagent_tests::packet::{self, Packet, hex};
use netagent_tests::prog_run::verdict;
use netagent_tests::random::Random;
use netagent_tests::scene::{self, GENERATION, GUEST_MAC, REMOTE_V4, REMOTE_V6, SLOT, Scene, to};

use crate::nat::tcp_segment;
use crate::{answers, drops, limits, quotes, services};

const FRAMES: u32 = 20_000;

/// A valid frame of some kind.
fn seed_frame(random: &mut Random) -> Vec<u8> {
    let remote = if random.chance(2) {
        REMOTE_V4.into()
    } else {
        IpAddr::V6(REMOTE_V6)
    };
    let ends = to(remote);
    match random.below(8) {
        0 => packet::udp(&ends, (4_000, 53), &[0; 32]),
        1 => packet::tcp(
            &ends,
            packet::Segment {
                src_port: 4_001,
                dst_port: 80,
                ..packet::Segment::default()
            },
            b"",
        ),
        2 => packet::echo_request(&ends, (7, 1), &[0; 32]),
        3 | 4 => request(random),
        5 => {
            // About an answer that may have come.
            let answer = packet::udp(&ends.reversed(), (53, 4_000), &[0; 32]);
            let kind = if remote.is_ipv4() { (3, 1) } else { (1, 1) };
            quotes::error(&ends, (kind, [0; 4]), (&answer, 100))
        }
        6 => {
            let whole = packet::udp(&ends, (4_000, 53), &[0; 128]);
            fragment::fragment(&whole, (8 * random.below(2) as usize * 8, 64), 7)
        }
        _ => {
            let kind = if random.chance(2) {
                ethertype::IPV4
            } else {
                ethertype::IPV6
            };
            packet::ethernet(GATEWAY_MAC, GUEST_MAC, kind, &[0; 60])
        }
    }
}

/// Something that is asked of the agent's servers.
fn request(random: &mut Random) -> Vec<u8> {
    let gateway = scene::gateway_v6();
    match random.below(6) {
        0 => services::dhcp(&services::to_all(Ipv4Addr::UNSPECIFIED)),
        1 => services::dhcp(&to(scene::GATEWAY_V4)),
        2 => services::solicitation(&services::to_routers(services::LINK_LOCAL), &[]),
        3 => packet::udp(&to(scene::GATEWAY_V4), (4_000, 53), &[0; 32]),
        4 => packet::udp(
            &to(gateway).from(services::LINK_LOCAL),
            (4_000, 53),
            &[0; 32],
        ),
        _ => tcp_segment(&to(gateway), (4_000, 53), &[0; 32]),
    }
}

/// Spoils up to four bytes of a frame, and sometimes cuts it.
fn spoiled(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() as u32) as usize;
        bytes[at] = random.next() as u8;
    }
    if random.chance(3) {
        bytes.truncate(14 + random.below(bytes.len() as u32 - 14) as usize);
    }
    bytes
}

/// The frame as if its payload came straight behind the IPv6 header.
fn without_fragment_header(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes[12..14] == ethertype::IPV6.to_be_bytes() && bytes[20] == 44 {
        let length = u16::from_be_bytes([bytes[18], bytes[19]]) - 8;
        bytes[18..20].copy_from_slice(&length.to_be_bytes());
        bytes[20] = bytes[54];
        bytes.drain(54..62);
    }
    bytes
}

#[test]
fn nothing_leaves_but_packets_of_the_guests_own_flows() {
    let mut scene = Scene::usual();
    let mut random = Random::new(2);
    let (mut refused, mut redirected, mut asked, mut told) = (0, 0, 0, 0);
    for number in 0..FRAMES {
        let frame = seed_frame(&mut random);
        let bytes = spoiled(&mut random, frame);
        limits::leave_everything(&mut scene);
        let outcome = scene.datapath.try_run(FROM_VM, &bytes, scene::FROM_VM);
        let Some(outcome) = outcome else {
            refused += 1;
            continue;
        };
        if outcome.verdict == verdict::DROP {
            continue;
        }
        assert_eq!(
            outcome.verdict,
            verdict::REDIRECT,
            "frame {number} reaches the host: {}",
            hex(&bytes)
        );
        redirected += 1;
        told += u64::from(drops::is_told(&outcome));
        let packet = Packet::parse(&without_fragment_header(&outcome.bytes));
        let packet =
            packet.unwrap_or_else(|| panic!("frame {number} leaves as {}", hex(&outcome.bytes)));
        let own = [IpAddr::V4(scene::HOST_V4), scene::HOST_V6.into()];
        let is_answer = packet.ends.dst_mac == GUEST_MAC;
        asked += u32::from(is_request(&packet));
        assert!(
            is_answer || own.contains(&packet.ends.src) || is_request(&packet),
            "frame {number} leaves as {}",
            hex(&outcome.bytes)
        );
    }
    assert!(
        redirected > 0 && asked > 0,
        "some frames were spoilt in their payload alone"
    );
    let dropped: u64 = scene.datapath.drops().values().sum();
    assert_eq!(
        dropped - told + redirected + refused,
        u64::from(FRAMES),
        "every drop is counted once"
    );
}

/// Whether the agent's servers get it, from nobody but this guest.
fn is_request(packet: &Packet) -> bool {
    let client = match packet.ends.src {
        IpAddr::V4(address) => Client::from_v4(address.octets()),
        IpAddr::V6(address) => Client::from_v6(address.octets()).map(|(client, _)| client),
    };
    let served = match packet.protocol {
        protocol::ICMPV6 => packet.kind == icmpv6::ROUTER_SOLICITATION && packet.ends.ttl == 255,
        protocol::UDP => packet.ports.1 == 53 || packet.ports == (68, 67),
        _ => packet.protocol == protocol::TCP && packet.ports.1 == 53,
    };
    let macs = (packet.ends.src_mac, packet.ends.dst_mac);
    client.is_some_and(|client| client.slot == SLOT && client.is_of(GENERATION))
        && packet.ends.dst == services::server(packet.ends.src.is_ipv4())
        && macs == (SERVICES_HOST_MAC, SERVICES_MAC)
        && served
}

#[test]
fn whatever_comes_from_the_servers_goes_to_a_guest_or_nowhere() {
    let mut scene = services::scene();
    let mut random = Random::new(4);
    let mut delivered = 0;
    for number in 0..FRAMES {
        let frame = answers::any_answer(number);
        let bytes = spoiled(&mut random, frame);
        let outcome = scene
            .datapath
            .try_run(FROM_SERVICES, &bytes, scene::FROM_SERVICES);
        let Some(outcome) = outcome else { continue };
        if outcome.verdict == verdict::DROP {
            continue;
        }
        let left = hex(&outcome.bytes);
        assert_eq!(outcome.verdict, verdict::REDIRECT, "frame {number}: {left}");
        let packet = Packet::parse(&outcome.bytes).unwrap_or_else(|| panic!("{left}"));
        let gateways = services::gateways(packet.ends.src);
        let is_gateway = gateways
            .iter()
            .any(|(gateway, _)| *gateway == packet.ends.src);
        let sources = services::sources();
        let is_guest = sources.iter().any(|(guest, _)| *guest == packet.ends.dst);
        assert!(is_gateway, "frame {number}: {left}");
        assert!(
            is_guest || answers::is_guests(packet.ends.dst),
            "frame {number}: {left}"
        );
        delivered += 1;
    }
    assert!(
        delivered > 0,
        "some frames were spoilt in their payload alone"
    );
}

#[test]
fn garbage_on_the_uplink_is_left_to_the_host() {
    let mut scene = Scene::usual();
    let mut random = Random::new(3);
    for _ in 0..FRAMES {
        let length = 14 + random.below(120) as usize;
        let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        let outcome = scene
            .datapath
            .try_run(FROM_UPLINK, &bytes, scene::FROM_UPLINK);
        let Some(outcome) = outcome else { continue };
        assert_eq!(
            (outcome.verdict, &outcome.bytes),
            (verdict::NEXT, &bytes),
            "{}",
            hex(&bytes)
        );
    }
}
