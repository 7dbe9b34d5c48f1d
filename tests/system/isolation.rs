//! What comes from outside: nothing reaches a guest that it did not ask for.

use std::net::IpAddr;

use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::frame::Frame;
use netagent_tests::guest::Guest;
use netagent_tests::packet::{self, Ends, hex};
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, World};

use crate::exchange::{FlowTo, Protocol, Way};
use crate::surroundings::is_of_the_host;

/// Everything that reached the guest so far, the host's own discovery apart.
fn reached(guest: &Guest) -> Vec<String> {
    let frames = std::iter::from_fn(|| guest.nic().tap.receive_now());
    frames
        .map(|frame| frame.completed())
        .filter(|bytes| !is_of_the_host(bytes))
        .map(|bytes| hex(&bytes))
        .collect()
}

#[test]
fn a_packet_from_the_world_to_a_guests_own_address_is_dropped_even_where_the_host_forwards() {
    let world = World::new();
    world.host.sysctl("net/ipv4/ip_forward", "1");
    world.host.sysctl("net/ipv6/conf/all/forwarding", "1");
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "direct", Header::Vnet);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    for remote in SILENT {
        let ends = way.back(remote).to(guest.nic().address(remote.is_ipv4()));
        for protocol in Protocol::ALL {
            wire.send(&Frame::plain(protocol.question(
                &ends,
                (80, 80),
                b"straight to the guest",
            )));
        }
        // A flow after them: what they became has been seen by then.
        way.check(FlowTo {
            protocol: Protocol::Udp,
            remote,
            ports: (8_000, 53),
        });
    }
    assert_eq!(reached(&guest), [""; 0]);
}

#[test]
fn what_the_world_sends_to_nat_ports_that_it_was_not_asked_from_stays_outside() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "closed", Header::Vnet);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    for (remote, stranger) in [(SILENT[0], SILENT[2]), (SILENT[1], SILENT[3])] {
        let flow = FlowTo {
            protocol: Protocol::Udp,
            remote,
            ports: (8_000, 53),
        };
        let nat_port = way.check(flow);
        let from = |src: IpAddr, ports| {
            Frame::plain(packet::udp(&way.back(remote).from(src), ports, b"unasked"))
        };
        for port in [nat_port - 1, nat_port + 1, 16_384, 29_999, 53] {
            wire.send(&from(remote, (53, port)));
        }
        wire.send(&from(remote, (54, nat_port)));
        wire.send(&from(stranger, (53, nat_port)));
        let tcp = packet::Segment {
            src_port: 53,
            dst_port: nat_port,
            flags: 2,
            ..packet::Segment::default()
        };
        wire.send(&Frame::plain(packet::tcp(&way.back(remote), tcp, b"")));
        way.answer(flow, nat_port, Frame::plain, b"asked for");
    }
    assert_eq!(reached(&guest), [""; 0]);
}

#[test]
fn two_instances_reach_each_other_on_no_way() {
    let world = World::new();
    world.host.sysctl("net/ipv4/ip_forward", "1");
    world.host.sysctl("net/ipv6/conf/all/forwarding", "1");
    let agent = world.agent("");
    let one = Guest::create(&agent, &world.host, "one", Header::Vnet);
    let two = Guest::create(&agent, &world.host, "two", Header::Vnet);
    let wire = world.wire();
    let (from, to) = (one.nic(), two.nic());
    for is_v4 in [true, false] {
        for dst_mac in [from.to(to.address(is_v4)).dst_mac, to.mac, [0xff; 6]] {
            let ends = Ends {
                dst_mac,
                ..from.to(to.address(is_v4))
            };
            for protocol in Protocol::ALL {
                from.tap
                    .send_bytes(protocol.question(&ends, (80, 80), b"neighbour"));
            }
        }
        // Over the uplink's address, to a port of the other's flow.
        let way = Way::new(&world, to, &wire);
        let flow = FlowTo {
            protocol: Protocol::Udp,
            remote: SILENT[usize::from(!is_v4)],
            ports: (8_000, 53),
        };
        let nat_port = way.check(flow);
        let host = netagent_tests::world::host_address(is_v4);
        from.tap.send_bytes(packet::udp(
            &from.to(host),
            (53, nat_port),
            b"round the corner",
        ));
        way.answer(flow, nat_port, Frame::plain, b"the only thing that arrives");
    }
    assert_eq!(reached(&two), [""; 0]);
    wait_until("every one of them is counted", SOON, || {
        agent.guest_drops("one").values().sum::<u64>() == 2 * (3 * 3 + 1)
    });
}

#[test]
fn a_deleted_instances_address_and_ports_pass_to_the_next_one_without_its_flows() {
    let world = World::new();
    let agent = world.agent("");
    let wire = world.wire();
    let first = Guest::create(&agent, &world.host, "first", Header::Vnet);
    let flow = FlowTo {
        protocol: Protocol::Udp,
        remote: SILENT[0],
        ports: (8_000, 53),
    };
    let nat_port = Way::new(&world, first.nic(), &wire).check(flow);
    drop(first);
    assert!(agent.api("DELETE", "/v1/instances/first", "").status < 300);
    let second = Guest::create(&agent, &world.host, "second", Header::Vnet);
    let way = Way::new(&world, second.nic(), &wire);
    assert_eq!(
        second.nic().tap_name,
        "tap0",
        "the lowest free name and slot"
    );
    wire.send_bytes(packet::udp(
        &way.back(SILENT[0]),
        (53, nat_port),
        b"for the one before",
    ));
    way.check(FlowTo {
        ports: (8_001, 54),
        ..flow
    });
    assert_eq!(reached(&second), [""; 0]);
}

#[test]
fn a_reply_without_a_hop_left_is_dropped_and_counted() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "hops", Header::Vnet);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    for remote in SILENT {
        let flow = FlowTo {
            protocol: Protocol::Udp,
            remote,
            ports: (8_000, 53),
        };
        let nat_port = way.check(flow);
        let ends = Ends {
            ttl: 1,
            ..way.back(remote)
        };
        wire.send_bytes(packet::udp(&ends, (53, nat_port), b"too far"));
        way.answer(flow, nat_port, Frame::plain, b"near enough");
    }
    assert_eq!(reached(&guest), [""; 0]);
    assert_eq!(agent.drops("hops").get("ttl_expired"), Some(&4));
}
