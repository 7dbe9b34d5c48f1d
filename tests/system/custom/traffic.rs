//! Traffic of custom interfaces, and their isolation.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::net::GATEWAY_MAC;
use netagent_tests::deadline::{Deadline, SOON, wait_until};
use netagent_tests::frame::Frame;
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::neighbour::{self, Claim};
use netagent_tests::netns::NetNs;
use netagent_tests::packet::{self, Packet, hex};
use netagent_tests::ping::ping;
use netagent_tests::raw::Raw;
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, World, host_address};
use serde_json::{Value, json};

use crate::exchange::{FlowTo, Protocol, Way};
use crate::surroundings::is_of_the_host;

use crate::custom::{custom, flow};

/// Everything that reached a guest so far, the host's own discovery apart.
fn reached(nic: &Nic) -> Vec<String> {
    let frames = std::iter::from_fn(|| nic.tap.receive_now());
    frames
        .map(|frame| frame.completed())
        .filter(|bytes| !is_of_the_host(bytes))
        .map(|bytes| hex(&bytes))
        .collect()
}

/// The instance of the guide: one interface of the pool, one of the user's own.
fn my_instance() -> Value {
    json!({
        "name": "my-instance",
        "network_interfaces": [
            { "name": "my-instance-private" },
            { "name": "my-instance-public", "ip": "192.168.0.1/30", "ip6": "fec0::2/64", "tap_name": "vpc0" },
        ],
        "gateway": "192.168.0.100",
        "nameserver": "1.2.3.4",
    })
}

/// A datagram from any source through one TAP; the answer comes back on the same TAP.
fn check_source(world: &World, wire: &Raw, (nic, src): (&Nic, IpAddr), port: u16) {
    let remote = SILENT[usize::from(src.is_ipv6())];
    let way = Way::new(world, nic, wire);
    nic.tap.send_bytes(packet::udp(
        &nic.to(remote).from(src),
        (port, 53),
        b"either source",
    ));
    let nat_port = wire.receive_where(Deadline::after(SOON), |received| {
        let packet = Packet::parse(&received.frame.completed())?;
        let is_it =
            packet.payload == b"either source" && packet.ends.src == host_address(src.is_ipv4());
        is_it.then_some(packet.ports.0)
    });
    wire.send_bytes(packet::udp(&way.back(remote), (53, nat_port), b"and back"));
    let packet = nic.tap.receive_where(Deadline::after(SOON), |frame| {
        Packet::parse(&frame.completed()).filter(|packet| packet.payload == b"and back")
    });
    assert_eq!((packet.ends.dst, packet.ends.dst_mac), (src, nic.mac));
    assert_eq!(packet.ports, (53, port));
}

#[test]
fn every_interface_of_an_instance_reaches_the_world_from_any_address_of_the_instance_alone() {
    for configuration in ["", "[datapath]\nattach = \"clsact\"\n"] {
        let world = World::new();
        world.host.sysctl("net/ipv4/ip_forward", "1");
        world.host.sysctl("net/ipv6/conf/all/forwarding", "1");
        let agent = world.agent(configuration);
        let guest = Guest::create_from(&agent, &world.host, &my_instance(), Header::Vnet);
        let wire = world.wire();
        let [pool, own] = &guest.nics[..] else {
            panic!("two interfaces: {}", guest.answer)
        };
        assert_eq!(
            (own.v4, own.v6),
            (Ipv4Addr::new(192, 168, 0, 1), "fec0::2".parse().unwrap())
        );
        for nic in [pool, own] {
            let way = Way::new(&world, nic, &wire);
            for protocol in Protocol::ALL {
                for remote in SILENT {
                    way.check(FlowTo {
                        protocol,
                        remote,
                        ports: (8_000, 53),
                    });
                }
            }
        }
        let mut port = 8_100;
        for nic in [pool, own] {
            for other in [pool, own] {
                for is_v4 in [true, false] {
                    port += 1;
                    check_source(&world, &wire, (nic, other.address(is_v4)), port);
                }
            }
        }
        // The custom network's other addresses are not the guest's, nor is the rest of its /64.
        let mut spoofed = 0;
        let strangers: [IpAddr; 7] = [
            [192, 168, 0, 2].into(),
            [192, 168, 0, 3].into(),
            [192, 168, 0, 100].into(),
            [172, 16, 0, 6].into(),
            "fec0::3".parse().unwrap(),
            "fec0::2:0:0:2".parse().unwrap(),
            "fec0:0:0:1::2".parse().unwrap(),
        ];
        for nic in [pool, own] {
            for stranger in strangers {
                let ends = nic
                    .to(SILENT[usize::from(stranger.is_ipv6())])
                    .from(stranger);
                nic.tap.send_bytes(packet::udp(&ends, (1, 53), b"spoofed"));
                spoofed += 1;
            }
        }
        check_nothing_leaks(&world, pool, &wire, b"spoofed");
        assert_eq!(
            agent.guest_drops("my-instance"),
            BTreeMap::from([("spoofed_address".to_owned(), spoofed)])
        );
    }
}

/// Nothing with this payload left by the uplink before a valid datagram that is sent now.
fn check_nothing_leaks(world: &World, nic: &Nic, wire: &Raw, payload: &[u8]) {
    let ends = nic.to(SILENT[0]);
    nic.tap
        .send_bytes(packet::udp(&ends, (9_999, 9_999), b"sentinel"));
    loop {
        let received = wire
            .receive(Deadline::after(SOON))
            .expect("the sentinel arrives");
        let Some(packet) = Packet::parse(&received.frame.completed()) else {
            continue;
        };
        assert_ne!(packet.payload, payload, "{}", hex(&received.frame.bytes));
        if packet.payload == b"sentinel" {
            assert_eq!(packet.ends.src_mac, world.uplink_mac());
            return;
        }
    }
}

fn resolve(nic: &Nic, asked: Ipv4Addr) {
    let own = Claim {
        mac: nic.mac,
        ip: nic.v4,
    };
    nic.tap.send_bytes(neighbour::arp_request(own, asked));
    let answer = nic.tap.receive_where(Deadline::after(SOON), |frame| {
        let answer = neighbour::parse_arp_reply(&frame.bytes)?;
        (answer.0.ip == asked).then_some(answer)
    });
    assert_eq!(
        answer,
        (
            Claim {
                mac: GATEWAY_MAC,
                ip: asked
            },
            own
        )
    );
}

#[test]
fn an_off_subnet_gateway_is_answered_for_on_all_interfaces_and_is_nobody() {
    let world = World::new();
    world.host.sysctl("net/ipv4/ip_forward", "1");
    let agent = world.agent("");
    let guest = Guest::create_from(&agent, &world.host, &my_instance(), Header::Vnet);
    let (wire, gateway) = (world.wire(), Ipv4Addr::new(192, 168, 0, 100));
    for nic in &guest.nics {
        for asked in [nic.gateway_v4, gateway] {
            resolve(nic, asked);
        }
        let v6 = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        nic.tap
            .send_bytes(neighbour::solicitation(nic.mac, nic.v6, v6));
        let answer = nic.tap.receive_where(Deadline::after(SOON), |frame| {
            neighbour::parse_advertisement(&frame.bytes)
        });
        assert_eq!(answer, (v6, GATEWAY_MAC));
        // Nobody else is answered for.
        for asked in [[192, 168, 0, 3], [192, 168, 0, 101], [198, 51, 100, 1]] {
            let own = Claim {
                mac: nic.mac,
                ip: nic.v4,
            };
            nic.tap
                .send_bytes(neighbour::arp_request(own, asked.into()));
        }
        // The gateway's address leads nowhere: neither to the world nor to the host.
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            nic.tap
                .send_bytes(protocol.question(&nic.to(gateway), (80, 80), b"to the gateway"));
        }
        check_nothing_leaks(&world, nic, &wire, b"to the gateway");
        let answers = std::iter::from_fn(|| nic.tap.receive_now());
        let answered: Vec<_> = answers
            .filter_map(|frame| neighbour::parse_arp_reply(&frame.bytes))
            .collect();
        assert_eq!(answered, []);
    }
    assert_eq!(
        agent.guest_drops("my-instance").get("arp_unanswered"),
        Some(&6)
    );
}

#[test]
fn the_host_pings_a_custom_guest_over_its_own_route_and_sets_no_other() {
    let world = World::new();
    let agent = world.agent("");
    let mut guest = Guest::create_from(&agent, &world.host, &my_instance(), Header::Vnet);
    let own = guest.nics.remove(1);
    let (v4, v6, gateway) = (IpAddr::V4(own.v4), IpAddr::V6(own.v6), own.gateway_v4);
    let routes = |family: &str| {
        let routes = world
            .host
            .json(&format!("ip -json {family} route show dev vpc0"));
        let destination = |route: &Value| route["dst"].as_str().unwrap().to_owned();
        let mut found: Vec<_> = routes.as_array().unwrap().iter().map(destination).collect();
        found.retain(|destination| !destination.starts_with("fe80"));
        found
    };
    assert_eq!(routes("-4"), ["192.168.0.1"]);
    assert_eq!(routes("-6"), ["fec0::2"]);
    let stack = Stack::boot(own, 1_500);
    // The kernel asks for no neighbour until its own address on the TAP is known to be its own.
    wait_until("the host's address is settled", SOON, || {
        let addresses = world.host.shell("ip -6 address show dev vpc0");
        addresses.contains("fe80") && !addresses.contains("tentative")
    });
    // On a busy machine the first request may be given up before the neighbour has answered.
    let answers = |netns: &NetNs, address: IpAddr| {
        wait_until("the address answers", 2 * SOON, || {
            ping(netns, address, (1, 56)).is_ok()
        });
        ping(netns, address, (3, 56)).unwrap();
    };
    for address in [v4, v6] {
        answers(&world.host, address);
    }
    answers(&stack.netns, gateway.into());
}

#[test]
fn custom_taps_share_a_network_and_reach_neither_each_other_nor_the_pool() {
    let world = World::new();
    world.host.sysctl("net/ipv4/ip_forward", "1");
    world.host.sysctl("net/ipv6/conf/all/forwarding", "1");
    let agent = world.agent("");
    let spec = |name: &str, number: u8| {
        let (ip, ip6) = (format!("10.7.0.{number}/24"), format!("fec0::{number}/64"));
        json!({ "name": name, "network_interfaces": [{ "ip": ip, "ip6": ip6, "tap_name": format!("vpc{number}") }] })
    };
    let one = Guest::create_from(&agent, &world.host, &spec("one", 1), Header::Vnet);
    let two = Guest::create_from(&agent, &world.host, &spec("two", 2), Header::Vnet);
    let pool = Guest::create(&agent, &world.host, "pool", Header::Vnet);
    let wire = world.wire();
    let guests = [&one, &two, &pool];
    let routes = world.host.shell("ip -4 route show");
    assert!(!routes.contains("10.7.0.0/24"), "{routes}");
    for guest in guests {
        for index in [0, 1] {
            Way::new(&world, guest.nic(), &wire).check(flow(index, 8_000));
        }
    }
    for from in guests {
        for to in guests.into_iter().filter(|to| to.name != from.name) {
            for is_v4 in [true, false] {
                let (nic, to) = (from.nic(), to.nic());
                for dst_mac in [GATEWAY_MAC, to.mac] {
                    let ends = packet::Ends {
                        dst_mac,
                        ..nic.to(to.address(is_v4))
                    };
                    for protocol in Protocol::ALL {
                        nic.tap
                            .send_bytes(protocol.question(&ends, (80, 80), b"neighbour"));
                    }
                }
                nic.tap.send_bytes(packet::udp(
                    &nic.to(to.gateway(true)),
                    (80, 80),
                    b"their gateway",
                ));
            }
        }
    }
    for guest in guests {
        let nic = guest.nic();
        let way = Way::new(&world, nic, &wire);
        for remote in SILENT {
            let ends = way.back(remote).to(nic.address(remote.is_ipv4()));
            for protocol in Protocol::ALL {
                wire.send(&Frame::plain(protocol.question(
                    &ends,
                    (80, 80),
                    b"from the world",
                )));
            }
        }
        way.check(flow(0, 8_001));
        way.check(flow(1, 8_001));
    }
    for guest in guests {
        assert_eq!(reached(guest.nic()), [""; 0], "{}", guest.name);
    }
    // ARP for the neighbour's address is not answered: there is no network behind the TAP.
    let own = Claim {
        mac: one.nic().mac,
        ip: one.nic().v4,
    };
    one.nic()
        .tap
        .send_bytes(neighbour::arp_request(own, two.nic().v4));
    Way::new(&world, one.nic(), &wire).check(flow(0, 8_002));
    assert_eq!(agent.guest_drops("one").get("arp_unanswered"), Some(&1));
}

#[test]
fn a_neighbours_ipv6_address_in_the_same_network_is_spoofed() {
    let world = World::new();
    let agent = world.agent("");
    let spec = json!({
        "name": "static",
        "network_interfaces": [{ "ip": "10.7.0.5/24", "ip6": "fec0::2/64", "tap_name": "vpc0" }],
    });
    let guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    let (nic, wire) = (guest.nic(), world.wire());
    let way = Way::new(&world, nic, &wire);
    for index in [1, 3] {
        way.check(flow(index, 8_000));
    }
    let stranger: Ipv6Addr = "fec0::3".parse().unwrap();
    nic.tap.send_bytes(packet::udp(
        &nic.to(SILENT[1]).from(stranger),
        (1, 53),
        b"spoofed",
    ));
    let gateway = nic.to(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
    nic.tap.send_bytes(neighbour::advertisement(
        &gateway.from(stranger),
        stranger,
        nic.mac,
    ));
    nic.tap
        .send_bytes(neighbour::advertisement(&gateway, stranger, nic.mac));
    check_nothing_leaks(&world, nic, &wire, b"spoofed");
    let drops = agent.guest_drops("static");
    assert_eq!(drops.get("spoofed_address"), Some(&1), "{drops:?}");
    assert_eq!(drops.get("spoofed_neighbour"), Some(&2), "{drops:?}");
}

#[test]
fn a_guest_with_a_single_address_reaches_the_world_by_a_link_local_gateway() {
    let world = World::new();
    let agent = world.agent("");
    let wire = world.wire();
    for (name, ip, gateway) in [
        ("single", "10.9.0.1/32", [169, 254, 1, 1]),
        ("pair", "10.8.0.0/31", [10, 8, 0, 1]),
    ] {
        let spec = custom(name, ip, &format!("vpc-{name}"));
        let guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
        assert_eq!(guest.nic().gateway_v4, Ipv4Addr::from(gateway));
        resolve(guest.nic(), gateway.into());
        Way::new(&world, guest.nic(), &wire).check(flow(0, 8_000));
    }
}
