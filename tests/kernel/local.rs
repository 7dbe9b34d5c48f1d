//! What the gateway answers by itself, and the host's pings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::drop::DropReason;
use netagent_common::net::GATEWAY_MAC;
use netagent_common::policy::RouteKind;
use netagent_tests::neighbour::{self, Claim};
use netagent_tests::packet::{self, Ends, Segment, echo_reply, echo_request, hex, tcp, udp};
use netagent_tests::prog_run::{Sizes, verdict};
use netagent_tests::scene::{self, GATEWAY_V4, GUEST_MAC, GUEST_V4, GUEST_V6, SLOT, Scene, to};

use crate::drops::is_told;

#[test]
fn arp_for_the_gateway_is_answered_with_its_constant_address() {
    let mut scene = Scene::usual();
    let guest = Claim {
        mac: GUEST_MAC,
        ip: GUEST_V4,
    };
    let outcome = scene.from_vm(&neighbour::arp_request(guest, GATEWAY_V4));
    assert_eq!(outcome.verdict, verdict::REDIRECT);
    let gateway = Claim {
        mac: GATEWAY_MAC,
        ip: GATEWAY_V4,
    };
    assert_eq!(
        hex(&outcome.bytes),
        hex(&neighbour::arp(2, (GATEWAY_MAC, GUEST_MAC), gateway, guest))
    );
}

#[test]
fn a_solicitation_for_the_gateway_is_answered() {
    let gateway = scene::gateway_v6();
    let link_local: Ipv6Addr = "fe80::a8fc:ff:fe00:6".parse().unwrap();
    for source in [GUEST_V6, link_local] {
        let mut scene = Scene::usual();
        let outcome = scene.from_vm(&neighbour::solicitation(GUEST_MAC, source, gateway));
        assert_eq!(
            outcome.verdict,
            verdict::REDIRECT,
            "{source}: {:?}",
            scene.datapath.drops()
        );
        packet::assert_checksums(&outcome.bytes);
        assert_eq!(
            neighbour::parse_advertisement(&outcome.bytes),
            Some((gateway, GATEWAY_MAC))
        );
        let answer = packet::Packet::parse(&outcome.bytes).unwrap();
        let expected = Ends {
            src_mac: GATEWAY_MAC,
            dst_mac: GUEST_MAC,
            src: gateway.into(),
            dst: source.into(),
            ttl: 255,
        };
        assert_eq!(answer.ends, expected);
    }
}

#[test]
fn the_gateway_answers_its_guests_pings() {
    for gateway in [IpAddr::V4(GATEWAY_V4), scene::gateway_v6().into()] {
        let mut scene = Scene::usual();
        let outcome = scene.from_vm(&echo_request(&to(gateway), (11, 1), b"are you there"));
        // Answered by the program, or by the host's own stack with the gateway's address on the TAP.
        match outcome.verdict {
            verdict::REDIRECT => {
                let expected = echo_reply(&to(gateway).reversed(), (11, 1), b"are you there");
                assert_eq!(hex(&outcome.bytes[..14]), hex(&expected[..14]), "{gateway}");
                packet::assert_checksums(&outcome.bytes);
                let (answer, expected) = (
                    packet::Packet::parse(&outcome.bytes),
                    packet::Packet::parse(&expected),
                );
                assert_eq!(answer.unwrap().payload, expected.unwrap().payload);
            }
            verdict::NEXT | verdict::OK => {}
            other => panic!("{gateway}: verdict {other}: {:?}", scene.datapath.drops()),
        }
    }
}

/// Ends of a packet from the host to the guest.
fn from_host(gateway: IpAddr) -> Ends {
    to(gateway).reversed()
}

#[test]
fn the_host_pings_the_guest_and_nothing_else_of_it_gets_in() {
    let host_v6: Ipv6Addr = "fe80::1".parse().unwrap();
    for gateway in [IpAddr::V4(GATEWAY_V4), host_v6.into()] {
        let mut scene = Scene::usual();
        let ends = from_host(gateway);
        let unasked = scene.from_vm(&echo_reply(&ends.reversed(), (5, 1), b"nobody asked"));
        assert_eq!(
            unasked.verdict,
            verdict::DROP,
            "{gateway}: an answer without a question"
        );
        let request = scene.from_host(&echo_request(&ends, (5, 1), b"hello"));
        assert_ne!(
            request.verdict,
            verdict::DROP,
            "{gateway}: {:?}",
            scene.datapath.drops()
        );
        let answer = scene.from_vm(&echo_reply(&ends.reversed(), (5, 1), b"hello"));
        assert!(
            answer.verdict == verdict::NEXT || answer.verdict == verdict::OK,
            "{gateway}: verdict {}: {:?}",
            answer.verdict,
            scene.datapath.drops()
        );
        assert_eq!(
            scene.from_host(&udp(&ends, (5, 6), b"not a ping")).verdict,
            verdict::DROP
        );
    }
}

#[test]
fn a_hosts_ping_ends_when_its_address_is_the_hosts_no_more() {
    use RouteKind::{Host, Instance, NotUplink, Unreachable, Uplink};
    let addresses: [IpAddr; 2] = [scene::HOST_V4.into(), scene::HOST_V6.into()];
    for address in addresses {
        for left in [NotUplink, Instance, Unreachable, Uplink] {
            let mut scene = Scene::usual();
            let ends = from_host(address);
            let request = scene.from_host(&echo_request(&ends, (5, 1), b"hello"));
            assert_eq!(request.verdict, verdict::NEXT, "{address}");
            let reply = echo_reply(&ends.reversed(), (5, 1), b"hello");
            assert_eq!(scene.from_vm(&reply).verdict, verdict::NEXT, "{address}");

            let stays = scene::route(Host, address.is_ipv4(), false);
            scene.change_route(address, &stays);
            let other_routes = scene.from_vm(&reply);
            assert_eq!(other_routes.verdict, verdict::NEXT, "{address} stays");
            assert_eq!(scene.open_flows(), 1);

            let leaves = scene::route(left, address.is_ipv4(), false);
            scene.change_route(address, &leaves);
            let late = scene.from_vm(&reply);
            assert_eq!(late.verdict, verdict::DROP, "{address} is {left:?} now");
            assert_eq!(late.bytes, reply, "it is not changed");
            assert_eq!(scene.open_flows(), 0, "the flow ended");
        }
    }
}

/// In the guest's own network, in another one that the world has, and the link-local one of I-16.
const TOLD_GATEWAYS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(172, 16, 0, 23),
    Ipv4Addr::new(203, 0, 113, 1),
    Ipv4Addr::new(169, 254, 1, 1),
];

/// An instance that was told another gateway than this interface's.
fn told(gateway: Ipv4Addr) -> Scene {
    let mut record = scene::record();
    record.instance_gateway_v4 = gateway.octets();
    Scene::new(Sizes::default(), &record)
}

#[test]
fn arp_for_the_gateway_that_the_guest_was_told_is_answered_too() {
    let guest = Claim {
        mac: GUEST_MAC,
        ip: GUEST_V4,
    };
    for gateway in TOLD_GATEWAYS {
        let mut scene = told(gateway);
        for ip in [gateway, GATEWAY_V4] {
            let outcome = scene.from_vm(&neighbour::arp_request(guest, ip));
            assert_eq!(outcome.verdict, verdict::REDIRECT, "{ip}");
            let answer = Claim {
                mac: GATEWAY_MAC,
                ip,
            };
            let expected = neighbour::arp(2, (GATEWAY_MAC, GUEST_MAC), answer, guest);
            assert_eq!(hex(&outcome.bytes), hex(&expected), "{ip}");
        }
        let as_gateway = Claim {
            mac: GUEST_MAC,
            ip: gateway,
        };
        let claim = scene.from_vm(&neighbour::arp_request(as_gateway, GATEWAY_V4));
        assert_eq!(claim.verdict, verdict::DROP);
        let drops = scene.datapath.drops();
        assert_eq!(drops[&(SLOT, DropReason::SpoofedArp)], 1, "{gateway}");
    }
}

#[test]
fn a_guest_told_its_own_address_as_gateway_finds_it_in_nobodys_use() {
    let mut scene = told(GUEST_V4);
    let probe = Claim {
        mac: GUEST_MAC,
        ip: Ipv4Addr::UNSPECIFIED,
    };
    let outcome = scene.from_vm(&neighbour::arp_request(probe, GUEST_V4));
    assert_eq!(outcome.verdict, verdict::DROP);
}

#[test]
fn nobody_answers_for_a_gateway_of_all_zeroes() {
    let mut scene = told(Ipv4Addr::UNSPECIFIED);
    let guest = Claim {
        mac: GUEST_MAC,
        ip: GUEST_V4,
    };
    let outcome = scene.from_vm(&neighbour::arp_request(guest, Ipv4Addr::UNSPECIFIED));
    assert_eq!(outcome.verdict, verdict::DROP);
}

#[test]
fn the_gateway_that_the_guest_was_told_answers_pings_and_nothing_sent_to_it_leaves() {
    for gateway in TOLD_GATEWAYS {
        let mut scene = told(gateway);
        let ends = to(gateway);
        let outcome = scene.from_vm(&echo_request(&ends, (11, 1), b"are you there"));
        assert_eq!(outcome.verdict, verdict::REDIRECT, "{gateway}");
        packet::assert_checksums(&outcome.bytes);
        let answer = packet::Packet::parse(&outcome.bytes).unwrap();
        let expected = echo_reply(&ends.reversed(), (11, 1), b"are you there");
        let expected = packet::Packet::parse(&expected).unwrap();
        assert_eq!(
            (answer.ends, answer.payload),
            (expected.ends, expected.payload)
        );

        let syn = Segment {
            src_port: 4_000,
            dst_port: 80,
            flags: netagent_common::net::tcp_flag::SYN,
            ..Segment::default()
        };
        for refused in [udp(&ends, (4_000, 54), b"question"), tcp(&ends, syn, b"")] {
            assert!(is_told(&scene.from_vm(&refused)), "{gateway}");
        }
        let drops = scene.datapath.drops();
        assert_eq!(drops.get(&(SLOT, DropReason::GatewayClosed)), Some(&2));
        let reply = scene.from_vm(&echo_reply(&ends, (5, 1), b"nobody asked"));
        assert_eq!(reply.verdict, verdict::DROP);
        assert_eq!(scene.open_flows(), 0, "{gateway}");
    }
}

#[test]
fn the_host_pings_from_the_gateway_that_the_guest_was_told() {
    for gateway in TOLD_GATEWAYS {
        let ends = from_host(gateway.into());
        let request = echo_request(&ends, (5, 1), b"hello");
        assert_eq!(told(gateway).from_host(&request).verdict, verdict::NEXT);
        assert_eq!(Scene::usual().from_host(&request).verdict, verdict::DROP);
        let mut scene = told(gateway);
        scene.from_host(&request);
        let reply = scene.from_vm(&echo_reply(&ends.reversed(), (5, 1), b"hello"));
        assert_eq!(reply.verdict, verdict::NEXT, "{gateway}");
    }
}
