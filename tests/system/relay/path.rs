//! The way of a client's packets: by its relay, unchanged between the two TAPs, in both directions.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};

use netagent_common::net::GATEWAY_MAC;
use netagent_tests::client::{connect_from, echo};
use netagent_tests::deadline::SOON;
use netagent_tests::packet::{self, Packet};
use netagent_tests::ping::ping;
use netagent_tests::relay::{Passage, SHIELD, Scene, Vm, client};
use netagent_tests::server::{PORT, Server};
use netagent_tests::stack::{Crossed, INSIDE};
use netagent_tests::world::{NAT_PORTS, host_address};

use crate::exchange::Protocol;
use crate::path::hops;
use crate::policy::site::serve;
use crate::relay::{FAMILIES, exchange, server};
use crate::stacks::{echo_tcp, echo_udp};

/// What a Linux system sends has this TTL.
const TTL: u8 = 64;
/// What an Ethernet frame of one segment cannot exceed.
const FRAME: usize = 1_514;

/// The question and its answer on every cable.
fn check_passages(scene: &Scene, protocol: Protocol, remote: IpAddr) {
    let is_v4 = remote.is_ipv4();
    let (client, relay) = (scene.client(), scene.relay());
    let text = format!("{protocol:?} to {remote}").into_bytes();
    scene.forget();
    exchange(client.netns(), protocol, remote, &text);

    let there = scene.passage((client, remote), true, &text);
    for (place, seen) in between(&there) {
        let ends = (seen.ends.src, seen.ends.dst);
        assert_eq!(ends, (client.address(is_v4), remote), "{place}");
        assert_eq!(seen.ports, there.client.ports, "{place}");
    }
    let macs = |packet: &Packet| (packet.ends.src_mac, packet.ends.dst_mac);
    assert_eq!(macs(&there.client), (client.mac, GATEWAY_MAC));
    assert_eq!(macs(&there.relay_client_side), (GATEWAY_MAC, relay.mac));
    assert_eq!(macs(&there.relay_world_side), (relay.mac, GATEWAY_MAC));
    let outside = (there.uplink.ends.src, there.uplink.ends.dst);
    assert_eq!(outside, (host_address(is_v4), remote));
    assert!(NAT_PORTS.contains(&there.uplink.ports.0), "{there:?}");
    // The relay is a router; between the TAPs netagent is none.
    assert_eq!(ttls(&there), [TTL, TTL, TTL - 1, TTL - 2], "{there:?}");

    let back = scene.passage((client, remote), false, &text);
    for (place, seen) in between(&back) {
        let ends = (seen.ends.src, seen.ends.dst);
        assert_eq!(ends, (remote, client.address(is_v4)), "{place}");
        assert_eq!(seen.ports, back.client.ports, "{place}");
    }
    assert_eq!(macs(&back.relay_world_side), (GATEWAY_MAC, relay.mac));
    assert_eq!(macs(&back.relay_client_side), (relay.mac, GATEWAY_MAC));
    assert_eq!(macs(&back.client), (GATEWAY_MAC, client.mac));
    assert_eq!(ttls(&back), [TTL - 2, TTL - 2, TTL - 1, TTL], "{back:?}");
}

/// What crossed a TAP.
fn between(passage: &Passage) -> [(&str, &Packet); 3] {
    [
        ("the client's TAP", &passage.client),
        ("the relay's TAP", &passage.relay_client_side),
        ("the relay's TAP again", &passage.relay_world_side),
    ]
}

fn ttls(passage: &Passage) -> [u8; 4] {
    [
        passage.client.ends.ttl,
        passage.relay_client_side.ends.ttl,
        passage.relay_world_side.ends.ttl,
        passage.uplink.ends.ttl,
    ]
}

/// Every packet of a VM's cables has right checksums.
fn check_checksums(vm: &Vm) {
    for crossed in vm.crossed() {
        if Packet::parse(&crossed.bytes).is_some() && !is_fragment(&crossed.bytes) {
            packet::assert_checksums(&crossed.bytes);
        }
    }
}

/// Whether it is a piece of an IP packet.
fn is_fragment(bytes: &[u8]) -> bool {
    match bytes[14] >> 4 {
        4 => u16::from_be_bytes([bytes[20], bytes[21]]) & 0x3fff != 0,
        6 => bytes[20] == 44,
        _ => false,
    }
}

fn check_way(configuration: &str) {
    let scene = Scene::new(configuration, &[client("sandbox")]);
    let _servers = serve(
        &scene.world.outside,
        &FAMILIES.map(|is_v4| server(is_v4, 0)),
    );
    for is_v4 in FAMILIES {
        for protocol in Protocol::ALL {
            check_passages(&scene, protocol, server(is_v4, 0));
        }
    }
    check_checksums(scene.client());
    check_checksums(scene.relay());
    assert_eq!(scene.agent.guest_drops("sandbox"), Default::default());
}

#[test]
fn r1_everything_passes_the_relay_with_its_addresses_and_the_answers_too_by_tcx() {
    check_way("");
}

#[test]
fn r1_everything_passes_the_relay_with_its_addresses_and_the_answers_too_by_clsact() {
    check_way("[datapath]\nattach = \"clsact\"\n");
}

#[test]
fn r1_megabytes_pieces_and_every_address_of_the_clients_network_pass_and_traceroute_shows_the_relay()
 {
    let scene = Scene::new("", &[client("sandbox")]);
    check_every_address(&scene);
    check_megabytes(&scene);
    check_fragments(&scene);
    check_traceroute(&scene);
    for name in ["sandbox", SHIELD] {
        let mut drops = scene.agent.guest_drops(name);
        // Of traceroute's own.
        drops.remove("ttl_expired");
        assert_eq!(drops, Default::default(), "{name}");
    }
}

/// Whatever address of its IPv6 network a client takes (P-8).
fn check_every_address(scene: &Scene) {
    let (sandbox, remote) = (scene.client(), server(false, 0));
    let _echo = Server::udp(&scene.world.outside, remote);
    let [a, b, c, d, ..] = sandbox.v6.segments();
    let own = Ipv6Addr::new(a, b, c, d, 0xdead, 0, 0, 0x77);
    let netns = sandbox.netns();
    netns.ip(&format!("address add {own}/64 dev {INSIDE} nodad"));
    let socket = netns.run(|| UdpSocket::bind((own, 0))).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    scene.forget();
    socket.send_to(b"of the network", (remote, PORT)).unwrap();
    socket.recv(&mut [0; 64]).unwrap();
    for is_outbound in [true, false] {
        let passage = scene.passage((sandbox, remote), is_outbound, b"of the network");
        for (place, seen) in between(&passage) {
            assert!(
                [seen.ends.src, seen.ends.dst].contains(&own.into()),
                "{place}"
            );
        }
    }
}

/// As super-frames both ways, with right checksums.
fn check_megabytes(scene: &Scene) {
    for is_v4 in FAMILIES {
        let remote = server(is_v4, 0);
        let _tcp = Server::tcp(&scene.world.outside, remote);
        scene.forget();
        echo_tcp(scene.client().netns(), remote, 4 << 20);
        for vm in [scene.client(), scene.relay()] {
            let crossed = vm.crossed();
            let is_super = |way: bool| {
                let large = |crossed: &&Crossed| crossed.bytes.len() > FRAME;
                crossed
                    .iter()
                    .filter(large)
                    .any(|crossed| crossed.is_from_vm == way)
            };
            assert!(is_super(true) && is_super(false), "{}", vm.name);
            check_checksums(vm);
        }
    }
}

/// Both ways, as they are.
fn check_fragments(scene: &Scene) {
    let netns = scene.client().netns();
    for is_v4 in FAMILIES {
        let remote = server(is_v4, 0);
        let _udp = Server::udp(&scene.world.outside, remote);
        scene.forget();
        for length in [1_473, 20_000, 65_507] {
            echo_udp(netns, remote, length);
        }
        ping(netns, remote, (3, 20_000)).unwrap();
        for is_from_vm in [true, false] {
            let crossed = scene.relay().crossed().into_iter();
            let pieces =
                crossed.filter(|seen| seen.is_from_vm == is_from_vm && is_fragment(&seen.bytes));
            assert!(pieces.count() >= 100, "the relay passes them as they are");
        }
    }
}

fn check_traceroute(scene: &Scene) {
    let relay = scene.relay();
    // Every probe is answered.
    relay.netns().sysctl("net/ipv4/icmp_ratelimit", "0");
    relay.netns().sysctl("net/ipv6/icmp/ratelimit", "0");
    for is_v4 in FAMILIES {
        let (family, remote) = (if is_v4 { 4 } else { 6 }, server(is_v4, 0));
        for method in ["", "-I"] {
            let line = format!("traceroute -{family} -n -q 1 -w 2 -m 5 {method} {remote}");
            let output = scene.client().netns().shell(&line);
            let hops = hops(&output);
            let shows = |hop: usize, address: String| {
                assert!(hops[hop].contains(&address), "{line}: {output}");
            };
            assert_eq!(hops.len(), 3, "{line}: {output}");
            shows(0, relay.address(is_v4).to_string());
            if is_v4 {
                shows(1, scene.client().gateway_v4.to_string());
            }
            shows(2, remote.to_string());
        }
    }
}

#[test]
fn r3_many_clients_share_a_relay_with_the_same_ports_to_the_same_server() {
    let clients = ["one", "two", "three"].map(client);
    let scene = Scene::new("", &clients);
    for is_v4 in FAMILIES {
        let remote = server(is_v4, 1);
        let tcp = Server::tcp(&scene.world.outside, remote);
        let udp = Server::udp(&scene.world.outside, remote);
        let mut held = Vec::new();
        for client in &scene.clients {
            let from = (client.address(is_v4), 20_000).into();
            let socket = client.netns().run(|| UdpSocket::bind(from)).unwrap();
            socket.set_read_timeout(Some(SOON)).unwrap();
            socket
                .send_to(client.name.as_bytes(), (remote, PORT))
                .unwrap();
            held.push((
                socket,
                connect_from(client.netns(), from, (remote, PORT).into()),
            ));
        }
        for (client, (socket, stream)) in scene.clients.iter().zip(held) {
            let mut answer = [0; 64];
            let length = socket.recv(&mut answer).unwrap();
            assert_eq!(&answer[..length], client.name.as_bytes(), "its own answer");
            echo(stream, 100_000);
        }
        for server in [tcp, udp] {
            let mut peers = server.peers();
            peers.sort();
            peers.dedup();
            assert_eq!(peers.len(), clients.len(), "the world tells them apart");
        }
    }
}
