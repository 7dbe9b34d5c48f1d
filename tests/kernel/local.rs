//! What the gateway answers by itself, and the host's pings.

use std::net::{IpAddr, Ipv6Addr};

use netagent_common::net::GATEWAY_MAC;
use netagent_common::policy::RouteKind;
use netagent_tests::neighbour::{self, Claim};
use netagent_tests::packet::{self, Ends, echo_reply, echo_request, hex, udp};
use netagent_tests::prog_run::verdict;
use netagent_tests::scene::{self, GATEWAY_V4, GUEST_MAC, GUEST_V4, GUEST_V6, Scene, to};

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
