//! What a guest asks of DHCP, its resolver and its router, on its way to the agent's own servers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::net::GATEWAY_MAC;
use netagent_common::services::{
    Client, Place, SERVER_V4, SERVER_V6, SERVICES_HOST_MAC, SERVICES_MAC,
};
use netagent_common::vm::{EXACT_ADDRESS, Interface};
use netagent_tests::neighbour::{self, BROADCAST, icmpv6};
use netagent_tests::packet::{self, Ends, hex, udp};
use netagent_tests::prog_run::{Sizes, verdict};
use netagent_tests::scene::{
    self, GATEWAY_V4, GENERATION, GUEST_MAC, GUEST_V4, GUEST_V6, REMOTE_V4, REMOTE_V6, SLOT, Scene,
    to,
};

use crate::nat::{Build, tcp_segment};

/// An odd length, so that the checksum covers a padded byte.
pub(crate) const PAYLOAD: &[u8] = b"seventeen bytes..";
/// The gateway that the guest was told, another than the interface's.
pub(crate) const TOLD: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
pub(crate) const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xa8fc, 0xff, 0xfe00, 6);
/// In fe80::/10, but not in fe80::/64.
pub(crate) const STRANGE_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 1, 0, 0, 0, 6);
pub(crate) const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// The instance's addresses on its other interfaces, in order.
pub(crate) const OTHERS_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(172, 16, 0, 26),
    Ipv4Addr::new(10, 1, 0, 5),
    Ipv4Addr::new(10, 2, 0, 5),
];
pub(crate) const OTHERS_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xa, 0xb, 6, 0, 0, 0, 2),
    Ipv6Addr::new(0xfd77, 0, 0, 1, 0, 0, 0, 5),
    Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2),
];

/// An instance of four interfaces that was told another gateway than this interface's.
pub(crate) fn record() -> Interface {
    let mut record = scene::record();
    record.instance_gateway_v4 = TOLD.octets();
    record.addresses = 4;
    for (index, address) in OTHERS_V4.iter().enumerate() {
        record.addresses_v4[index + 1] = address.octets();
    }
    for (index, address) in OTHERS_V6.iter().enumerate() {
        record.addresses_v6[index + 1] = address.octets();
        record.prefixes_v6[index + 1] = EXACT_ADDRESS;
    }
    record.prefixes_v6[1] = record.prefixes_v6[0];
    record
}

pub(crate) fn scene() -> Scene {
    Scene::new(Sizes::default(), &record())
}

pub(crate) fn client(place: u8) -> Client {
    Client {
        slot: SLOT,
        generation: GENERATION,
        place: Place(place),
    }
}

/// The low half of an address.
pub(crate) fn host_part(address: Ipv6Addr) -> [u8; 8] {
    address.octets()[8..].try_into().unwrap()
}

/// Who asked, as the servers see it.
pub(crate) fn asked_from(source: IpAddr, place: u8) -> IpAddr {
    match source {
        IpAddr::V4(_) => client(place).to_v4().into(),
        IpAddr::V6(source) => client(place).to_v6(host_part(source)).into(),
    }
}

pub(crate) fn server(is_v4: bool) -> IpAddr {
    if is_v4 {
        SERVER_V4.into()
    } else {
        SERVER_V6.into()
    }
}

/// Ends of what the servers get.
fn steered(ends: &Ends, place: u8) -> Ends {
    Ends {
        src_mac: SERVICES_HOST_MAC,
        dst_mac: SERVICES_MAC,
        src: asked_from(ends.src, place),
        dst: server(ends.src.is_ipv4()),
        ttl: ends.ttl,
    }
}

fn check(scene: &mut Scene, build: impl Fn(&Ends) -> Vec<u8>, ends: &Ends, place: u8) {
    let outcome = scene.from_vm(&build(ends));
    assert_eq!(
        (outcome.verdict, outcome.mark),
        (verdict::REDIRECT, 0),
        "{ends:?}: {:?}",
        scene.datapath.drops()
    );
    packet::assert_checksums(&outcome.bytes);
    let expected = build(&steered(ends, place));
    assert_eq!(hex(&outcome.bytes), hex(&expected), "{ends:?}");
}

/// Every address that the guest may ask from, with what the servers see of it.
pub(crate) fn sources() -> Vec<(IpAddr, u8)> {
    let beside: Ipv6Addr = "fd00:a:b:5:1234:5678:9abc:def0".parse().unwrap();
    let mut sources: Vec<(IpAddr, u8)> = vec![
        (GUEST_V4.into(), 0),
        (GUEST_V6.into(), 0),
        (beside.into(), 0),
        (LINK_LOCAL.into(), Place::LINK_LOCAL),
    ];
    for (address, place) in OTHERS_V4.into_iter().zip(1..) {
        sources.push((address.into(), place));
    }
    for (address, place) in OTHERS_V6.into_iter().zip(1..) {
        sources.push((address.into(), place));
    }
    sources
}

/// The gateways that a source may ask, with what the servers see of them.
pub(crate) fn gateways(source: IpAddr) -> Vec<(IpAddr, u8)> {
    if source.is_ipv4() {
        vec![
            (GATEWAY_V4.into(), 0),
            (
                TOLD.into(),
                Place::INSTANCE_GATEWAY << Place::SERVER_SHIFT_V4,
            ),
        ]
    } else {
        vec![(scene::gateway_v6().into(), 0)]
    }
}

/// Whatever may ask a resolver.
pub(crate) const QUESTIONS: [Build; 2] = [udp, tcp_segment];

#[test]
fn questions_to_the_gateways_resolver_say_who_asked_whom() {
    let mut scene = scene();
    for (source, place) in sources() {
        for (gateway, bit) in gateways(source) {
            for build in QUESTIONS {
                let question = |ends: &Ends| build(ends, (4_000, 53), PAYLOAD);
                let ends = to(gateway).from(source);
                check(&mut scene, question, &ends, place | bit);
            }
        }
    }
    assert_eq!(scene.open_flows(), 0, "no table remembers them");
}

#[test]
fn a_gateway_that_is_both_the_interfaces_and_the_instances_is_the_interfaces() {
    let mut scene = Scene::usual();
    let question = |ends: &Ends| udp(ends, (4_000, 53), PAYLOAD);
    check(&mut scene, question, &to(GATEWAY_V4), 0);
}

/// A DHCP request, as far as the programs look at it.
pub(crate) fn dhcp(ends: &Ends) -> Vec<u8> {
    udp(ends, (68, 67), &[1; 301])
}

/// Ends of a request that goes to everybody.
pub(crate) fn to_all(source: Ipv4Addr) -> Ends {
    Ends {
        dst_mac: BROADCAST,
        ..to(Ipv4Addr::BROADCAST).from(source)
    }
}

#[test]
fn dhcp_requests_reach_the_server_with_or_without_an_address() {
    let mut scene = scene();
    let unspecified = Ipv4Addr::UNSPECIFIED;
    check(&mut scene, dhcp, &to_all(unspecified), 0);
    let unicast = Ends {
        dst_mac: GATEWAY_MAC,
        ..to_all(unspecified)
    };
    check(&mut scene, dhcp, &unicast, 0);
    for (source, place) in sources() {
        let IpAddr::V4(source) = source else { continue };
        check(&mut scene, dhcp, &to_all(source), place);
        for (gateway, _) in gateways(source.into()) {
            check(&mut scene, dhcp, &to(gateway).from(source), place);
        }
    }
}

/// Ends of a router solicitation.
pub(crate) fn to_routers(source: Ipv6Addr) -> Ends {
    Ends {
        dst_mac: neighbour::multicast_mac(ALL_ROUTERS),
        ttl: 255,
        ..to(ALL_ROUTERS).from(source)
    }
}

/// A router solicitation with these options.
pub(crate) fn solicitation(ends: &Ends, options: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(options);
    packet::icmp(ends, (icmpv6::ROUTER_SOLICITATION, 0), &body)
}

/// The option that says which hardware address the sender has.
pub(crate) fn link_layer(mac: [u8; 6]) -> Vec<u8> {
    let mut option = vec![1, 1];
    option.extend(mac);
    option
}

#[test]
fn router_solicitations_reach_the_server_with_their_hop_limit() {
    let mut scene = scene();
    let plain = |ends: &Ends| solicitation(ends, &[]);
    let with_mac = |ends: &Ends| solicitation(ends, &link_layer(GUEST_MAC));
    let nobody = to_routers(Ipv6Addr::UNSPECIFIED);
    check(&mut scene, plain, &nobody, Place::ALL_NODES);
    let nonce = |ends: &Ends| solicitation(ends, &[14, 1, 1, 2, 3, 4, 5, 6]);
    check(&mut scene, nonce, &nobody, Place::ALL_NODES);
    for (source, place) in sources() {
        let IpAddr::V6(source) = source else { continue };
        let ends = to_routers(source);
        check(&mut scene, plain, &ends, place);
        check(&mut scene, with_mac, &ends, place);
        let to_gateway = Ends {
            dst_mac: GATEWAY_MAC,
            ..ends.to(scene::gateway_v6())
        };
        check(&mut scene, with_mac, &to_gateway, place);
    }
}

#[test]
fn a_datagram_without_a_checksum_gets_none() {
    let mut scene = scene();
    for mut bytes in [udp(&to(TOLD), (4_000, 53), PAYLOAD), dhcp(&to(GATEWAY_V4))] {
        bytes[40..42].fill(0);
        let outcome = scene.from_vm(&bytes);
        assert_eq!(outcome.verdict, verdict::REDIRECT);
        assert_eq!(outcome.bytes[40..42], [0, 0], "RFC 768: zero is none");
    }
}

#[test]
fn a_wrong_checksum_stays_as_wrong_as_it_was() {
    const WRONG_BY: u16 = 0x0101;
    let mut scene = scene();
    for (source, _) in sources() {
        let (gateway, _) = gateways(source)[0];
        let mut bytes = udp(&to(gateway).from(source), (4_000, 53), PAYLOAD);
        let field = packet::transport(&bytes).unwrap().start + 6;
        let right = u16::from_be_bytes([bytes[field], bytes[field + 1]]);
        let wrong = right.wrapping_add(WRONG_BY).to_be_bytes();
        bytes[field..field + 2].copy_from_slice(&wrong);
        let outcome = scene.from_vm(&bytes);
        assert_eq!(outcome.verdict, verdict::REDIRECT, "{source}");
        let carried = u16::from_be_bytes([outcome.bytes[field], outcome.bytes[field + 1]]);
        let right = packet::transport_checksum(&outcome.bytes).unwrap();
        assert_ne!(carried, right, "{source}: the servers refuse it");
    }
}

#[test]
fn what_asks_no_server_of_the_agent_is_a_flow_like_any_other() {
    let mut scene = scene();
    let frames = [
        udp(&to(REMOTE_V4), (4_000, 53), PAYLOAD),
        tcp_segment(&to(REMOTE_V6), (4_000, 53), PAYLOAD),
        udp(&to(REMOTE_V4), (68, 67), PAYLOAD),
        udp(&to(REMOTE_V6), (68, 67), PAYLOAD),
    ];
    for (count, frame) in (1..).zip(frames) {
        let outcome = scene.from_vm(&frame);
        assert_eq!(outcome.verdict, verdict::REDIRECT, "{}", hex(&frame));
        let left = packet::Packet::parse(&outcome.bytes).unwrap();
        let own = [IpAddr::V4(scene::HOST_V4), scene::HOST_V6.into()];
        assert!(own.contains(&left.ends.src), "{left:?}");
        assert_eq!(scene.open_flows(), count);
    }
}
