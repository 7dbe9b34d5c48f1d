//! Nothing of the host is in the way: firewall, daemons, settings; and what an agent that is dead leaves.

use std::net::{TcpListener, UdpSocket};

use netagent_tests::deadline::{Deadline, SOON, wait_until};
use netagent_tests::dhcp::{Client, Way, kind, option};
use netagent_tests::guest::Guest;
use netagent_tests::packet::{self, Packet};
use netagent_tests::ping::ping;
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{UPLINK, server_v4};
use serde_json::json;

use super::Scene;

/// Drops whatever arrives for the host, is forwarded by it, or leaves it.
const CLOSED: &str = "table inet closed {
    chain input { type filter hook input priority 0; policy drop; }
    chain forward { type filter hook forward priority 0; policy drop; }
    chain output { type filter hook output priority 0; policy drop; }
}";

#[test]
fn no_firewall_no_daemon_and_no_setting_of_the_host_is_in_the_way() {
    let scene = Scene::plain();
    let host = &scene.world.host;
    let rules = scene.agent.directory().join("closed.nft");
    std::fs::write(&rules, CLOSED).unwrap();
    host.shell(&format!("nft -f {}", rules.display()));
    for name in ["all", "default", UPLINK] {
        host.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "1");
    }
    let daemons = host.run(|| {
        let any = |port| UdpSocket::bind(("::", port)).unwrap();
        (any(67), any(53), TcpListener::bind(("::", 53)).unwrap())
    });
    scene.client().take(1);
    daemons.0.set_nonblocking(true).unwrap();
    assert!(daemons.0.recv(&mut [0; 16]).is_err(), "the daemon heard it");
    // Those that come after it neither.
    let later = Guest::create(&scene.agent, host, "later", Header::Vnet);
    Client::new(later.nic()).take(1);
}

#[test]
fn every_host_setting_that_new_links_inherit_is_none_of_the_servers_business() {
    let world = netagent_tests::world::World::new();
    for (path, value) in [
        ("net/ipv4/conf/default/rp_filter", "1"),
        ("net/ipv6/conf/default/disable_ipv6", "1"),
        ("net/ipv4/conf/default/arp_ignore", "8"),
        ("net/ipv4/conf/default/forwarding", "1"),
    ] {
        world.host.sysctl(path, value);
    }
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "asks", Header::Vnet);
    Client::new(guest.nic()).take(1);
    let answer = netagent_tests::router::ask(guest.nic());
    assert!(answer.lifetime > 0);
}

#[test]
fn a_dead_agent_answers_nobody_and_one_that_starts_again_renews_what_was_given() {
    let mut scene = Scene::plain();
    scene.client().take(1);
    let way = Way {
        src: scene.nic().v4,
        dst: scene.nic().gateway_v4,
    };
    for _ in 0..2 {
        scene.agent.kill9();
        let (client, nic) = (scene.client(), scene.nic());
        client.send(Way::NEW, &client.question(kind::DISCOVER, 0xdead));
        // The gateway's answer to a ping, which needs no agent, is the next that comes: forwarding goes on.
        let echo = packet::echo_request(&nic.to(nic.gateway_v4), (1, 1), b"after it");
        nic.tap.send_bytes(echo);
        nic.tap.receive_where(Deadline::after(SOON), |frame| {
            let packet = Packet::parse(&frame.completed())?;
            assert_ne!(packet.ports, (67, 68), "nobody can answer");
            (packet.payload == b"after it").then_some(())
        });
        scene.agent.run();
        let request = scene.client().question(kind::REQUEST, 5).from(way.src);
        let answer = scene.client().ask(way, &request);
        assert_eq!(answer.message.kind(), kind::ACK);
        assert_eq!(answer.message.given(), way.src);
        scene.client().take(6);
    }
}

#[test]
fn an_agent_that_stops_or_is_taken_down_leaves_nothing_that_serves() {
    let mut scene = Scene::plain();
    scene.client().take(1);
    let before = scene.world.host.links();
    scene.agent.stop();
    scene.agent.run();
    scene.client().take(3);
    assert_eq!(scene.world.host.links(), before, "no second cable");
    scene.agent.stop();
    scene.agent.take_down();
    wait_until("all links are gone", SOON, || {
        scene.world.host.links().len() == 2
    });
}

#[test]
fn an_instance_that_is_stopped_and_started_is_answered_as_before() {
    let scene = Scene::plain();
    let (_, before) = scene.client().take(1);
    scene.agent.change("asks", "stop");
    let started = scene.agent.change("asks", "start");
    let nic = netagent_tests::guest::Nic::open(
        &scene.world.host,
        &started["network_interfaces"][0],
        Header::Vnet,
    );
    let (_, after) = Client::new(&nic).take(1);
    assert_eq!(after.message, before.message);
}

#[test]
fn a_changed_mtu_of_the_uplink_is_in_the_next_answer() {
    let scene = Scene::plain();
    scene.client().take(1);
    for mtu in [1_400, 9_000] {
        scene.world.host.ip(&format!("link set {UPLINK} mtu {mtu}"));
        wait_until("the agent follows", SOON, || {
            scene.agent.inspect("asks")["network_interfaces"][0]["mtu"] == mtu
        });
        let shown = scene.world.host.json("ip -json link show dev tap0");
        assert_eq!(shown[0]["mtu"], mtu);
        let (_, given) = scene.client().take(3);
        assert_eq!(given.message.number(option::MTU), Some(mtu));
    }
}

#[test]
fn an_mtu_of_the_instance_or_the_interface_is_told() {
    let spec = json!({
        "name": "asks",
        "mtu": 1_300,
        "network_interfaces": [{}, { "mtu": 576 }],
    });
    let scene = Scene::new("", &spec, Header::Vnet);
    for (nic, mtu) in scene.guest.nics.iter().zip([1_300, 576]) {
        let (_, given) = Client::new(nic).take(1);
        assert_eq!(given.message.number(option::MTU), Some(mtu));
        assert!(given.length + 28 <= mtu as usize, "it fits the link");
    }
}

#[test]
fn what_the_servers_answer_is_never_taken_for_a_guests_own() {
    let scene = Scene::plain();
    scene.client().take(1);
    // The guest cannot reach the servers' own network, or pretend to be one of them.
    let nic = scene.nic();
    let server = std::net::Ipv4Addr::from(netagent_common::services::SERVER_V4);
    nic.tap
        .send_bytes(packet::udp(&nic.to(server), (4_000, 67), b"direct"));
    nic.tap.send_bytes(packet::udp(
        &nic.to(nic.v4).from(server),
        (67, 68),
        b"spoof",
    ));
    scene.client().check_silence(3);
    let drops = scene.agent.guest_drops("asks");
    assert_eq!(drops.get("spoofed_address"), Some(&1), "{drops:?}");
}

#[test]
fn the_world_is_reached_while_the_agent_is_dead() {
    let mut scene = Scene::plain();
    scene.client().take(1);
    let nic = scene.guest.nics.remove(0);
    let stack = Stack::boot(nic, 1_500);
    ping(&stack.netns, server_v4(0), (1, 56)).unwrap();
    scene.agent.kill9();
    ping(&stack.netns, server_v4(0), (3, 56)).unwrap();
}
