//! Every kind of interface at both ends, and instances with more than one.

use std::net::UdpSocket;

use netagent_common::net::GATEWAY_MAC;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::packet::{self, Ends, Packet};
use netagent_tests::raw::Raw;
use netagent_tests::relay::{
    SHIELD, SHIELD_INTERFACE, Scene, Vm, client, packets_of, relayed, shield,
};
use netagent_tests::server::Server;
use netagent_tests::stack::INSIDE;
use netagent_tests::world::{UPLINK, World, host_address, server_v4};
use serde_json::{Value, json};

use crate::exchange::Protocol;
use crate::policy::site::serve;
use crate::published_ports::check_tcp;
use crate::relay::{FAMILIES, exchange, pings, saw, server, udp_socket};
use crate::stacks::echo_tcp;

/// An interface of the user's own in a network with others.
fn own(tap: &str, host: u8) -> Value {
    json!({
        "ip": format!("10.20.0.{host}/24"),
        "ip6": format!("fec0::{host}/64"),
        "tap_name": tap,
    })
}

fn own_relay() -> Value {
    let mut interface = own("vpc0", 1);
    interface["name"] = SHIELD_INTERFACE.into();
    json!({ "name": SHIELD, "network_interfaces": [interface] })
}

fn own_client(name: &str, tap: &str, host: u8) -> Value {
    let mut interface = own(tap, host);
    interface["relay"] = relayed(None)["relay"].clone();
    json!({
        "name": name,
        "network_interfaces": [interface],
        "publish": [format!("{}:7", 8_000 + u16::from(host))],
    })
}

/// Every client reaches the world by the relay in both families, and is reached at its published port.
fn check(scene: &Scene) {
    for is_v4 in FAMILIES {
        let remote = server(is_v4, 0);
        let _world = serve(&scene.world.outside, &[remote]);
        for client in &scene.clients {
            scene.forget();
            for protocol in Protocol::ALL {
                let text = format!("{protocol:?} of {}", client.name).into_bytes();
                exchange(client.netns(), protocol, remote, &text);
                let there = scene.passage((client, remote), true, &text);
                let address = client.address(is_v4);
                assert_eq!(there.relay_client_side.ends.src, address);
                assert_eq!(there.relay_world_side.ends.src, address);
                assert_eq!(there.uplink.ends.src, host_address(is_v4));
                scene.forget();
            }
            echo_tcp(client.netns(), remote, 1 << 20);
            let published = scene.agent.inspect(&client.name)["publish"][0]["host_port"].as_u64();
            if let Some(port) = published {
                let _echo = serve(client.netns(), &[client.address(is_v4)]);
                let port = u16::try_from(port).unwrap();
                check_tcp(
                    &scene.world.outside,
                    (host_address(is_v4), port).into(),
                    100_000,
                );
            }
        }
    }
}

#[test]
fn r8_relay_and_clients_of_one_private_network() {
    let clients = [own_client("one", "vpc1", 2), own_client("two", "vpc2", 3)];
    let scene = Scene::with_relay("", &own_relay(), &clients);
    check(&scene);
    // In one network the relay knows better ways for its clients; none of them may hear of it.
    let redirect = |packet: &Packet| matches!((packet.protocol, packet.kind), (1, 5) | (58, 137));
    for client in &scene.clients {
        assert_eq!(client.packets(false, redirect), []);
    }
    // It asks for its clients' hardware addresses, and they stay closed to each other all the same.
    let (one, two) = (&scene.clients[0], &scene.clients[1]);
    for (from, to) in [(one, two), (one, scene.relay()), (scene.relay(), one)] {
        assert!(!pings(from.netns(), to.address(true)));
    }
}

#[test]
fn r8_a_client_of_the_pool_by_a_relay_of_the_users_own() {
    let scene = Scene::with_relay("", &own_relay(), &[client("pool")]);
    check(&scene);
}

#[test]
fn r8_a_client_of_the_users_own_by_a_relay_of_the_pool() {
    let scene = Scene::new("", &[own_client("own", "vpc1", 2)]);
    check(&scene);
}

#[test]
fn n8_a_client_with_an_address_of_its_own_has_it_behind_the_relay_too() {
    let world = World::new();
    let own = ["198.51.100.7", "2001:db8:100::7"];
    for address in [format!("{}/32", own[0]), format!("{}/128 nodad", own[1])] {
        world
            .host
            .ip(&format!("address add {address} dev {UPLINK}"));
    }
    let agent = world.agent("");
    let spec = |index: usize| {
        json!({
            "name": format!("mail{index}"),
            "network_interfaces": [relayed(None)],
            "snat_address": own[index],
        })
    };
    let scene = Scene::in_world(world, agent, (&shield(), &[spec(0), spec(1)]));
    for ((is_v4, client), own) in FAMILIES.into_iter().zip(&scene.clients).zip(own) {
        let remote = server(is_v4, 0);
        let _echo = Server::udp(&scene.world.outside, remote);
        scene.forget();
        exchange(client.netns(), Protocol::Udp, remote, b"by name");
        let there = scene.passage((client, remote), true, b"by name");
        assert_eq!(there.uplink.ends.src.to_string(), own);
    }
}

#[test]
fn s5_a_new_client_inherits_nothing_of_the_one_before() {
    let mut scene = Scene::new("", &[client("first")]);
    let own = scene.client().v4;
    let server = scene
        .world
        .outside
        .run(|| UdpSocket::bind((server_v4(0), 7)));
    let server = server.unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    let from = (own, 20_000);
    let socket = scene
        .client()
        .netns()
        .run(|| UdpSocket::bind(from))
        .unwrap();
    socket.send_to(b"first", (server_v4(0), 7)).unwrap();
    let (_, peer) = server.recv_from(&mut [0; 64]).unwrap();
    drop(socket);
    scene.clients.clear();
    scene.agent.delete("first");
    let second = Vm::create(&scene.world, &scene.agent, &client("second"));
    assert_eq!(second.v4, own, "the lowest free slot");
    scene.clients.push(second);
    scene.wait_for_relay();
    scene.forget();
    server.send_to(b"for the one before", peer).unwrap();
    exchange_first(&scene);
    for vm in [scene.client(), scene.relay()] {
        assert!(!saw(vm, b"for the one before"), "{}", vm.name);
    }
}

/// What was sent before has arrived by then.
fn exchange_first(scene: &Scene) {
    let remote = server(true, 1);
    let _echo = Server::udp(&scene.world.outside, remote);
    exchange(scene.client().netns(), Protocol::Udp, remote, b"after it");
}

#[test]
fn p13_a_clients_limit_of_flows_holds_and_its_relays_does_not() {
    let relay = json!({
        "name": SHIELD,
        "network_interfaces": [{ "name": SHIELD_INTERFACE }],
        "limits": { "flows": 4 },
    });
    let spec = json!({
        "name": "few",
        "network_interfaces": [relayed(None)],
        "limits": { "flows": 10 },
    });
    let scene = Scene::with_relay("", &relay, &[spec]);
    let remote = server(true, 0);
    let echo = Server::udp(&scene.world.outside, remote);
    let sockets: Vec<_> = (0..20)
        .map(|_| {
            let socket = udp_socket(scene.client().netns(), true);
            socket.send_to(b"one more", (remote, 7)).unwrap();
            socket
        })
        .collect();
    scene.wait_for_drop("few", "flow_limit", 0);
    // The pings before have taken some of the ten; more than the relay may have itself is left.
    wait_until("flows of the client", SOON, || echo.peers().len() > 4);
    assert!(echo.peers().len() <= 10, "{:?}", echo.peers());
    drop(sockets);
}

#[test]
fn r1_of_an_instance_with_two_interfaces_one_may_have_a_relay() {
    let spec = json!({
        "name": "both",
        "network_interfaces": [{}, relayed(None)],
    });
    let scene = Scene::new("", &[spec]);
    let both = scene.client();
    let interface = &scene.agent.inspect("both")["network_interfaces"][1];
    let text = |member: &str| interface[member].as_str().unwrap().to_owned();
    let (tap_ip, ip) = (text("tap_ip"), text("ip"));
    let own = ip.split('/').next().unwrap();
    both.netns().ip(&format!(
        "route add default via {tap_ip} dev eth1 onlink metric 200"
    ));
    both.netns()
        .ip("-6 route add default via fe80::1 dev eth1 metric 2000");
    let by = |device: &str, is_v4| {
        scene.forget();
        let ping = format!("busybox ping -q -c 1 -W 5 -I {device} {}", server(is_v4, 0));
        both.netns().shell(&ping);
        let is_echo = |packet: &Packet| packet.ends.dst == server(is_v4, 0);
        scene.relay().packets(false, is_echo)
    };
    // Nobody goes round the relay: an address with one comes in by its own TAP alone.
    let direct = Raw::open(both.netns(), INSIDE);
    for is_v4 in FAMILIES {
        let own = text(if is_v4 { "ip" } else { "ip6" });
        let own = own.split('/').next().unwrap().parse().unwrap();
        let ends = Ends {
            src_mac: both.mac,
            dst_mac: GATEWAY_MAC,
            src: own,
            dst: server(is_v4, 1),
            ttl: 64,
        };
        scene.forget();
        let before = scene.drops("both", "spoofed_address");
        direct.send_bytes(packet::udp(&ends, (7_777, 7), b"round it"));
        scene.wait_for_drop("both", "spoofed_address", before);
        let left = packets_of(&scene.uplink.left());
        assert!(!left.iter().any(|packet| packet.payload == b"round it"));
    }
    for is_v4 in FAMILIES {
        assert_eq!(by(INSIDE, is_v4), [], "the other way is direct");
        let passed = by("eth1", is_v4);
        assert_eq!(passed.len(), 1);
        if is_v4 {
            assert_eq!(passed[0].ends.src.to_string(), own);
        }
    }
}
