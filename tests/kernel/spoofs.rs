//! Frames by which a guest claims to be somebody else.

use std::net::{Ipv4Addr, Ipv6Addr};

use netagent_common::drop::DropReason;
use netagent_tests::neighbour::{self, Claim, icmpv6};
use netagent_tests::packet::{self, Ends};
use netagent_tests::scene::{self, GUEST_MAC, GUEST_V4, GUEST_V6, REMOTE_V4, REMOTE_V6, to};

use crate::drops::{Case, REMOTES};

pub(crate) fn spoof_cases() -> Vec<Case> {
    use DropReason::{NotForGateway, RogueDhcp, SpoofedAddress, SpoofedMac};
    let mut cases = Vec::new();
    let mut add = |reason, what: &str, ends: &Ends| {
        cases.push(Case::from_vm(
            reason,
            what,
            packet::udp(ends, (4_000, 5_000), b"payload"),
        ));
    };
    for remote in REMOTES {
        let ends = to(remote);
        add(
            SpoofedMac,
            "another source",
            &Ends {
                src_mac: [0xaa, 0xfc, 0, 0, 0, 7],
                ..ends
            },
        );
        add(
            NotForGateway,
            "another destination",
            &Ends {
                dst_mac: [2, 0, 0, 0, 0, 9],
                ..ends
            },
        );
    }
    for source in [
        Ipv4Addr::new(172, 16, 0, 18),
        REMOTE_V4,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::LOCALHOST,
    ] {
        add(
            SpoofedAddress,
            "another IPv4 source",
            &to(REMOTE_V4).from(source),
        );
    }
    add(
        SpoofedAddress,
        "its gateway as source",
        &to(REMOTE_V4).from(scene::GATEWAY_V4),
    );
    let other: Ipv6Addr = "fd00:a:b:6::2".parse().unwrap();
    for source in [
        other,
        REMOTE_V6,
        Ipv6Addr::LOCALHOST,
        "fe80::2".parse().unwrap(),
        Ipv6Addr::UNSPECIFIED,
    ] {
        add(
            SpoofedAddress,
            "another IPv6 source",
            &to(REMOTE_V6).from(source),
        );
    }
    let offer = neighbour::dhcp_offer(GUEST_MAC, GUEST_V4);
    cases.push(Case::from_vm(RogueDhcp, "a DHCP offer to all", offer));
    let reply = packet::udp(&to(REMOTE_V4), (67, 68), &[2, 1, 6, 0]);
    cases.push(Case::from_vm(RogueDhcp, "a DHCP offer to one", reply));
    cases.push(Case::from_vm(
        RogueDhcp,
        "a DHCPv6 reply",
        neighbour::dhcpv6_reply(&to(REMOTE_V6)),
    ));
    cases
}

pub(crate) fn arp_cases() -> Vec<Case> {
    use DropReason::{ArpUnanswered, SpoofedArp};
    let own = Claim {
        mac: GUEST_MAC,
        ip: GUEST_V4,
    };
    let other = Ipv4Addr::new(172, 16, 0, 18);
    let mut cases = Vec::new();
    let mut add =
        |reason, what: &str, bytes: Vec<u8>| cases.push(Case::from_vm(reason, what, bytes));
    add(
        SpoofedArp,
        "another's address",
        neighbour::arp_request(Claim { ip: other, ..own }, scene::GATEWAY_V4),
    );
    let foreign = Claim {
        mac: [2, 0, 0, 0, 0, 7],
        ..own
    };
    let disguised = neighbour::arp(1, (GUEST_MAC, neighbour::BROADCAST), foreign, own);
    add(SpoofedArp, "another's hardware address", disguised);
    let gateway = Claim {
        mac: GUEST_MAC,
        ip: scene::GATEWAY_V4,
    };
    add(
        SpoofedArp,
        "the gateway's address",
        neighbour::arp(2, (GUEST_MAC, neighbour::BROADCAST), gateway, own),
    );
    add(
        ArpUnanswered,
        "an announcement",
        neighbour::arp_request(own, GUEST_V4),
    );
    add(
        ArpUnanswered,
        "a question for another",
        neighbour::arp_request(own, other),
    );
    let probe = Claim {
        mac: GUEST_MAC,
        ip: Ipv4Addr::UNSPECIFIED,
    };
    add(
        ArpUnanswered,
        "a probe",
        neighbour::arp_request(probe, GUEST_V4),
    );
    cases
}

pub(crate) fn discovery_cases() -> Vec<Case> {
    use DropReason::{NeighbourUnanswered, RogueRouter, SpoofedNeighbour};
    let mut cases = Vec::new();
    let mut add =
        |reason, what: &str, bytes: Vec<u8>| cases.push(Case::from_vm(reason, what, bytes));
    let other: Ipv6Addr = "fd00:a:b:6::2".parse().unwrap();
    let gateway = scene::gateway_v6();
    add(
        SpoofedNeighbour,
        "another's question",
        neighbour::solicitation(GUEST_MAC, other, gateway),
    );
    let claim = |claimed| neighbour::advertisement(&to(gateway), claimed, GUEST_MAC);
    add(SpoofedNeighbour, "another's address", claim(other));
    add(SpoofedNeighbour, "the gateway's address", claim(gateway));
    add(
        NeighbourUnanswered,
        "a question for another",
        neighbour::solicitation(GUEST_MAC, GUEST_V6, other),
    );
    add(NeighbourUnanswered, "an announcement", claim(GUEST_V6));

    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let ends = Ends {
        dst_mac: neighbour::multicast_mac(all_nodes),
        ttl: 255,
        ..to(all_nodes)
    };
    let local = ends.from("fe80::2".parse::<Ipv6Addr>().unwrap());
    for (kind, what) in [
        (icmpv6::ROUTER_ADVERTISEMENT, "a router"),
        (icmpv6::REDIRECT, "a redirect"),
    ] {
        add(RogueRouter, what, packet::icmp(&local, (kind, 0), &[0; 36]));
        add(RogueRouter, what, packet::icmp(&ends, (kind, 0), &[0; 36]));
    }
    cases
}
