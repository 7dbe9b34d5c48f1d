//! The gateway: ARP, neighbour discovery and echo, and the host's pings to its guests.

use std::net::{IpAddr, Ipv6Addr};

use netagent_common::net::{GATEWAY_MAC, GATEWAY_V6};
use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::frame::Frame;
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::neighbour::{self, Claim};
use netagent_tests::packet::{self, Packet};
use netagent_tests::ping::ping;
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::World;

pub(crate) fn check_resolution(nic: &Nic) {
    let own = Claim {
        mac: nic.mac,
        ip: nic.v4,
    };
    nic.tap
        .send_bytes(neighbour::arp_request(own, nic.gateway_v4));
    let answer = nic.tap.receive_where(Deadline::after(SOON), |frame| {
        neighbour::parse_arp_reply(&frame.bytes)
    });
    assert_eq!(
        answer,
        (
            Claim {
                mac: GATEWAY_MAC,
                ip: nic.gateway_v4
            },
            own
        )
    );

    let gateway = Ipv6Addr::from(GATEWAY_V6);
    nic.tap
        .send_bytes(neighbour::solicitation(nic.mac, nic.v6, gateway));
    let answer = nic.tap.receive_where(Deadline::after(SOON), |frame| {
        let answer = neighbour::parse_advertisement(&frame.bytes)?;
        packet::assert_checksums(&frame.bytes);
        Some(answer)
    });
    assert_eq!(answer, (gateway, GATEWAY_MAC));
}

pub(crate) fn check_echo(nic: &Nic) {
    for is_v4 in [true, false] {
        let ends = nic.to(nic.gateway(is_v4));
        for length in [0, 1, 56, 1_400] {
            let payload = vec![0x5a; length];
            nic.tap
                .send_bytes(packet::echo_request(&ends, (9, 2), &payload));
            let reply = nic.tap.receive_where(Deadline::after(SOON), |frame| {
                let bytes = frame.completed();
                let packet = Packet::parse(&bytes)?;
                let is_reply = packet.kind == 0 || packet.kind == 129;
                (is_reply && packet.ports == (9, 2) && packet.payload.len() == length)
                    .then_some(bytes)
            });
            packet::assert_checksums(&reply);
            let reply = Packet::parse(&reply).unwrap();
            assert_eq!((reply.ends.src, reply.ends.dst), (ends.dst, ends.src));
            assert_eq!(
                (reply.ends.src_mac, reply.ends.dst_mac),
                (GATEWAY_MAC, nic.mac)
            );
            assert_eq!(reply.payload, payload);
        }
    }
}

#[test]
fn the_gateway_answers_arp_solicitations_and_pings() {
    for (header, configuration) in [
        (Header::Vnet, ""),
        (Header::None, "[datapath]\nattach = \"clsact\"\n"),
    ] {
        let world = World::new();
        let agent = world.agent(configuration);
        let guest = Guest::create(&agent, &world.host, "hello", header);
        check_resolution(guest.nic());
        check_echo(guest.nic());
    }
}

#[test]
fn the_gateway_answers_questions_whose_checksum_is_to_be_computed() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "partial", Header::Vnet);
    let (nic, gateway) = (guest.nic(), Ipv6Addr::from(GATEWAY_V6));
    let solicitation = neighbour::solicitation(nic.mac, nic.v6, gateway);
    nic.tap.send(&Frame::partial(solicitation));
    let answer = nic.tap.receive_where(Deadline::after(SOON), |frame| {
        let answer = neighbour::parse_advertisement(&frame.bytes)?;
        packet::assert_checksums(&frame.completed());
        Some(answer)
    });
    assert_eq!(answer, (gateway, GATEWAY_MAC));
    for is_v4 in [true, false] {
        let ends = nic.to(nic.gateway(is_v4));
        let request = packet::echo_request(&ends, (9, 2), b"to be computed");
        nic.tap.send(&Frame::partial(request));
        let reply = nic.tap.receive_where(Deadline::after(SOON), |frame| {
            let bytes = frame.completed();
            (Packet::parse(&bytes)?.payload == b"to be computed").then_some(bytes)
        });
        packet::assert_checksums(&reply);
        let reply = Packet::parse(&reply).unwrap();
        assert_eq!((reply.ends.src, reply.ends.dst), (ends.dst, ends.src));
    }
}

#[test]
fn the_host_pings_its_guest_and_reaches_nothing_else_of_it() {
    let world = World::new();
    let agent = world.agent("");
    let mut guest = Guest::create(&agent, &world.host, "pinged", Header::Vnet);
    let nic = guest.nics.remove(0);
    let (v4, v6, port) = (IpAddr::V4(nic.v4), IpAddr::V6(nic.v6), 7);
    let stack = Stack::boot(nic, 1_500);
    for address in [v4, v6] {
        ping(&world.host, address, (3, 56)).unwrap();
        ping(&world.host, address, (1, 20_000)).unwrap_err();
        let _server = netagent_tests::server::Server::udp(&stack.netns, address);
        let socket = world
            .host
            .run(|| std::net::UdpSocket::bind((host_any(address), 0)).unwrap());
        socket.send_to(b"not a ping", (address, port)).unwrap();
        ping(&world.host, address, (1, 56)).unwrap();
        socket.set_nonblocking(true).unwrap();
        assert!(
            socket.recv(&mut [0; 16]).is_err(),
            "the guest's server answered the host"
        );
    }
    assert_eq!(
        agent.drops("pinged").get("unsolicited"),
        Some(&2),
        "{:?}",
        agent.drops("pinged")
    );
}

fn host_any(address: IpAddr) -> IpAddr {
    if address.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

#[test]
fn the_tap_shows_its_slot_of_the_pool_and_is_closed_to_the_hosts_own_forwarding() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "shown", Header::None);
    let nic = guest.nic();
    assert_eq!(nic.tap_name, "tap0");
    assert_eq!(nic.v4.octets(), [172, 16, 0, 2]);
    assert_eq!(nic.gateway_v4.octets(), [172, 16, 0, 1]);
    assert_eq!(nic.mac, [0xaa, 0xfc, 0, 0, 0, 1]);
    let shown = world.host.shell("ip address show dev tap0");
    for part in [
        "172.16.0.1/30",
        "fe80::1/64",
        "fe:fc:00:00:00:01",
        "mtu 1500",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    for (name, value) in [
        ("ipv4/conf/tap0/forwarding", "0"),
        ("ipv4/conf/tap0/rp_filter", "2"),
        ("ipv4/conf/tap0/accept_redirects", "0"),
        ("ipv4/conf/tap0/send_redirects", "0"),
        ("ipv4/conf/tap0/proxy_arp", "0"),
        ("ipv6/conf/tap0/accept_ra", "0"),
        ("ipv4/ip_forward", "0"),
    ] {
        assert_eq!(
            world.host.read_sysctl(&format!("net/{name}")).as_deref(),
            Some(value),
            "{name}"
        );
    }
    let rules = world.host.shell("nft list ruleset");
    assert!(rules.trim().is_empty(), "{rules}");
}

#[test]
fn a_tap_closed_and_opened_again_works_at_once() {
    let world = World::new();
    let agent = world.agent("");
    let mut guest = Guest::create(&agent, &world.host, "again", Header::None);
    check_resolution(guest.nic());
    drop(guest.nics.remove(0));
    let reopened = Nic::open(
        &world.host,
        &guest.answer["network_interfaces"][0],
        Header::Vnet,
    );
    check_resolution(&reopened);
    reopened.tap.send(&Frame::plain(vec![0; 14]));
    check_echo(&reopened);
}
