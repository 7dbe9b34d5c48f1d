//! Instances of one account that reach each other (P-12).

use std::net::IpAddr;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{Deadline, SOON, wait_until};
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::packet::{Ends, Packet};
use netagent_tests::tap::Header;
use netagent_tests::world::World;
use serde_json::json;

use crate::access::{Client, Token, listening};
use crate::exchange::Protocol;

const PORTS: (u16, u16) = (5_000, 80);

/// An agent whose instances reach each other, and a token of another account than the unix socket's.
fn agent(world: &World) -> Agent {
    world.agent(&listening("[policy]\nvm_to_vm = \"account\"\n"))
}

fn question(protocol: Protocol, from: &Nic, to: &Nic, (is_v4, text): (bool, &[u8])) -> Vec<u8> {
    protocol.question(&from.to(to.address(is_v4)), PORTS, text)
}

/// The packet with these ends as the guest gets it.
fn arrives(at: &Nic, (src, dst): (IpAddr, IpAddr)) -> Packet {
    at.tap.receive_where(Deadline::after(SOON), |frame| {
        let packet = Packet::parse(&frame.clone().completed())?;
        (packet.ends.src == src && packet.ends.dst == dst).then_some(packet)
    })
}

fn check_exchange(one: &Nic, two: &Nic, protocol: Protocol, is_v4: bool) {
    let (from, to) = (one.address(is_v4), two.address(is_v4));
    one.tap
        .send_bytes(question(protocol, one, two, (is_v4, b"question")));
    let asked = arrives(two, (from, to));
    assert_eq!(asked.ends.dst_mac, two.mac);
    let ends: Ends = two.to(from);
    two.tap
        .send_bytes(protocol.answer(&ends, (PORTS.1, PORTS.0), b"answer"));
    let answered = arrives(one, (to, from));
    assert_eq!(answered.ends.dst_mac, one.mac);
}

#[test]
fn p12_instances_of_one_account_reach_each_other_and_another_accounts_nobody() {
    let world = World::new();
    let agent = agent(&world);
    let one = Guest::create(&agent, &world.host, "one", Header::Vnet);
    let two = Guest::create(&agent, &world.host, "two", Header::Vnet);
    let acme = Client::new(&world, &Token::create(&agent, "acme", &["net_manager"]));
    let made = acme.create(&json!({ "name": "three" }));
    let three = Nic::open(&world.host, &made["network_interfaces"][0], Header::Vnet);
    for is_v4 in [true, false] {
        for protocol in Protocol::ALL {
            check_exchange(one.nic(), two.nic(), protocol, is_v4);
            check_exchange(two.nic(), one.nic(), protocol, is_v4);
        }
    }
    for is_v4 in [true, false] {
        for protocol in Protocol::ALL {
            for (from, to) in [(one.nic(), &three), (&three, one.nic())] {
                from.tap
                    .send_bytes(question(protocol, from, to, (is_v4, b"stranger")));
            }
        }
    }
    wait_until("every one of them is counted", SOON, || {
        agent.guest_drops("one").get("other_instance") == Some(&6)
    });
    let frames = std::iter::from_fn(|| three.tap.receive_now());
    let from_one = frames
        .filter_map(|frame| Packet::parse(&frame.completed()))
        .filter(|packet| {
            [true, false]
                .map(|is_v4| one.nic().address(is_v4))
                .contains(&packet.ends.src)
        });
    assert_eq!(from_one.count(), 0);
}

#[test]
fn p12_denied_networks_of_either_keep_them_apart() {
    let world = World::new();
    let agent = agent(&world);
    let open = Guest::create(&agent, &world.host, "open", Header::Vnet);
    let closed = json!({ "name": "closed", "denied_cidrs": ["172.16.0.0/16", "fd00::/8"] });
    let closed = Guest::create_from(&agent, &world.host, &closed, Header::Vnet);
    for is_v4 in [true, false] {
        for protocol in Protocol::ALL {
            for (from, to) in [(&open, &closed), (&closed, &open)] {
                let packet = question(protocol, from.nic(), to.nic(), (is_v4, b"denied"));
                from.nic().tap.send_bytes(packet);
            }
        }
    }
    for name in ["open", "closed"] {
        wait_until("every one of them is counted", SOON, || {
            agent.guest_drops(name).get("denied_cidr") == Some(&6)
        });
    }
    // Opened under traffic: what is permitted passes with the next packet.
    let opened = agent.api("PUT", "/v1/instances/closed/policy", "{}");
    assert_eq!(opened.status, 200, "{opened:?}");
    for is_v4 in [true, false] {
        check_exchange(open.nic(), closed.nic(), Protocol::Udp, is_v4);
        check_exchange(closed.nic(), open.nic(), Protocol::Udp, is_v4);
    }
}
