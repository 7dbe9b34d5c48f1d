//! Requests to DHCP, resolver and router that reach no server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::drop::DropReason;
use netagent_common::limit::SEGMENTS_MAX;
use netagent_common::names::FROM_VM;
use netagent_tests::neighbour::icmpv6;
use netagent_tests::packet::{self, Ends, udp};
use netagent_tests::prog_run::Context;
use netagent_tests::scene::{self, GATEWAY_V4, GUEST_MAC, REMOTE_V4, to};

use crate::drops::{Case, Maps};
use crate::nat::tcp_segment;
use crate::services::{
    LINK_LOCAL, PAYLOAD, QUESTIONS, STRANGE_LOCAL, TOLD, dhcp, link_layer, solicitation, to_all,
    to_routers,
};

/// Requests that lead to no server, since there is none, or for want of what they may need.
pub(crate) fn unserved_cases() -> Vec<Case> {
    let requests = [
        ("a DHCP request", dhcp(&to_all(Ipv4Addr::UNSPECIFIED))),
        ("a renewal", dhcp(&to(GATEWAY_V4))),
        ("a DNS query", udp(&to(GATEWAY_V4), (4_000, 53), PAYLOAD)),
        (
            "a DNS query over TCP and IPv6",
            tcp_segment(&to(scene::gateway_v6()), (4_000, 53), PAYLOAD),
        ),
        (
            "a DNS query from the link",
            udp(
                &to(scene::gateway_v6()).from(LINK_LOCAL),
                (4_000, 53),
                PAYLOAD,
            ),
        ),
        (
            "a router solicitation",
            solicitation(&to_routers(LINK_LOCAL), &[]),
        ),
    ];
    let states = [
        (DropReason::ServicesDown, Maps::NoServers),
        (DropReason::ServiceLimit, Maps::NothingLeft),
    ];
    let mut cases = Vec::new();
    for (reason, maps) in states {
        for (what, bytes) in &requests {
            cases.push(Case::from_vm(reason, what, bytes.clone()).with(maps));
        }
    }
    let unanswered = solicitation(&to_routers(LINK_LOCAL), &[]);
    let case = Case::from_vm(DropReason::RouterSolicit, "a guest of IPv4", unanswered);
    cases.push(case.with(Maps::NoV6));
    cases
}

/// The first fragment of an IPv4 packet.
fn fragment(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[20] = 0x20;
    bytes[24..26].fill(0);
    let sum = !packet::fold(packet::sum(&bytes[14..34]));
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn query(ends: &Ends) -> Vec<u8> {
    udp(ends, (4_000, 53), PAYLOAD)
}

/// DHCP and DNS that the gateway does not serve.
pub(crate) fn closed_cases() -> Vec<Case> {
    use DropReason::{AlwaysDenied, Fragment, GatewayClosed, NotForGateway, RogueDhcp};
    let astray = |ends: Ends| Ends {
        dst_mac: [2, 0, 0, 0, 0, 9],
        ..ends
    };
    let discover = to_all(Ipv4Addr::UNSPECIFIED);
    let (gateway, over_v6) = (to(GATEWAY_V4), to(scene::gateway_v6()));
    let dhcpv6 = Ends {
        dst_mac: [0x33, 0x33, 0, 1, 0, 2],
        ..to("ff02::1:2".parse::<Ipv6Addr>().unwrap()).from(LINK_LOCAL)
    };
    let mut cases = Vec::new();
    let mut add = |reason, what: &str, bytes| {
        cases.push(Case::from_vm(reason, what, bytes).with(Maps::Several));
    };
    add(NotForGateway, "DNS elsewhere", query(&astray(to(TOLD))));
    add(NotForGateway, "DHCP elsewhere", dhcp(&astray(discover)));
    add(NotForGateway, "renewed elsewhere", dhcp(&astray(gateway)));
    for (ends, what) in [(gateway, "over IPv4"), (over_v6, "over IPv6")] {
        add(GatewayClosed, what, udp(&ends, (4_000, 67), PAYLOAD));
        add(GatewayClosed, what, tcp_segment(&ends, (68, 67), PAYLOAD));
        add(GatewayClosed, what, udp(&ends, (53, 54), PAYLOAD));
    }
    let v6 = udp(&over_v6, (68, 67), PAYLOAD);
    add(GatewayClosed, "DHCP over IPv6", v6);
    let server = udp(&gateway, (67, 67), PAYLOAD);
    add(RogueDhcp, "a server asks", server);
    let resolver = udp(&gateway, (67, 53), PAYLOAD);
    add(RogueDhcp, "a server asks the resolver", resolver);
    add(AlwaysDenied, "DHCPv6", udp(&dhcpv6, (546, 547), PAYLOAD));
    add(Fragment, "of a query", fragment(query(&gateway)));
    add(Fragment, "of a DHCP request", fragment(dhcp(&discover)));
    cases
}

/// DHCP and DNS from addresses that are not the guest's.
pub(crate) fn spoofed_cases() -> Vec<Case> {
    let unspecified = Ipv4Addr::UNSPECIFIED;
    let other = Ipv4Addr::new(172, 16, 0, 18);
    let (v4, v6) = (to(GATEWAY_V4), to(scene::gateway_v6()));
    let from_other_port = udp(&to_all(unspecified), (4_000, 67), PAYLOAD);
    let by_tcp = tcp_segment(&to_all(unspecified), (68, 67), PAYLOAD);
    let table = [
        ("another's DHCP", dhcp(&to_all(other))),
        ("another port, no address", from_other_port),
        ("TCP, no address", by_tcp),
        ("another server", dhcp(&to(REMOTE_V4).from(unspecified))),
        ("DNS, no address", query(&v4.from(unspecified))),
        ("another's DNS", query(&v4.from(other))),
        ("the gateway's DNS", query(&v4.from(GATEWAY_V4))),
        ("the gateway's DNS", query(&v6.from(scene::gateway_v6()))),
        ("`::` asks", query(&v6.from(Ipv6Addr::UNSPECIFIED))),
        ("strangely link-local", query(&v6.from(STRANGE_LOCAL))),
    ];
    let case = |(what, bytes)| Case::from_vm(DropReason::SpoofedAddress, what, bytes);
    table.map(|row| case(row).with(Maps::Several)).into()
}

/// Router solicitations that no guest should send.
pub(crate) fn solicitation_cases() -> Vec<Case> {
    use DropReason::{Malformed, NeighbourUnanswered, SpoofedNeighbour};
    let ends = to_routers(LINK_LOCAL);
    let other: Ipv6Addr = "fd00:a:b:9::2".parse().unwrap();
    let foreign = link_layer([2, 0, 0, 0, 0, 7]);
    let nobody = to_routers(Ipv6Addr::UNSPECIFIED);
    let code = packet::icmp(&ends, (icmpv6::ROUTER_SOLICITATION, 1), &[0; 4]);
    let table = [
        (
            Malformed,
            "was forwarded",
            solicitation(&Ends { ttl: 254, ..ends }, &[]),
        ),
        (Malformed, "code 1", code),
        (
            SpoofedNeighbour,
            "another's address",
            solicitation(&to_routers(other), &[]),
        ),
        (
            SpoofedNeighbour,
            "the gateway's address",
            solicitation(&to_routers(scene::gateway_v6()), &[]),
        ),
        (
            SpoofedNeighbour,
            "another's hardware address",
            solicitation(&ends, &foreign),
        ),
        (
            SpoofedNeighbour,
            "nobody's hardware address",
            solicitation(&nobody, &link_layer(GUEST_MAC)),
        ),
        (
            NeighbourUnanswered,
            "asks all nodes",
            solicitation(&ends.to("ff02::1".parse::<Ipv6Addr>().unwrap()), &[]),
        ),
    ];
    let mut cases: Vec<Case> = table
        .map(|(reason, what, bytes)| Case::from_vm(reason, what, bytes))
        .into();
    let strange = solicitation(&to_routers(STRANGE_LOCAL), &[]);
    let what = "a strange link-local address";
    cases.push(Case::from_vm(DropReason::SpoofedAddress, what, strange));
    cases
}

/// Requests for configuration as super-frames: they are answered one by one.
pub(crate) fn super_frame_cases() -> Vec<Case> {
    let context = Context {
        gso_size: 100,
        ..scene::FROM_VM
    };
    let table = [
        ("a DHCP request", dhcp(&to_all(Ipv4Addr::UNSPECIFIED))),
        ("a renewal", dhcp(&to(GATEWAY_V4))),
        (
            "a router solicitation",
            solicitation(&to_routers(LINK_LOCAL), &[0; 400]),
        ),
    ];
    let case =
        |(what, bytes)| Case::from_vm(DropReason::Malformed, what, bytes).seen_by(FROM_VM, context);
    let mut cases: Vec<Case> = table.map(case).into();
    let context = Context {
        gso_size: 1,
        ..context
    };
    for gateway in [IpAddr::V4(GATEWAY_V4), scene::gateway_v6().into()] {
        for build in QUESTIONS {
            let bytes = build(&to(gateway), (4_000, 53), &[7; SEGMENTS_MAX as usize]);
            let case = Case::from_vm(DropReason::TooManySegments, "questions", bytes);
            cases.push(case.seen_by(FROM_VM, context));
        }
    }
    cases
}
