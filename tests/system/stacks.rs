//! Guests with a real network stack: pings, datagrams and megabytes of TCP in both families.

use std::net::{IpAddr, UdpSocket};

use netagent_common::net::protocol;
use netagent_tests::agent::Agent;
use netagent_tests::client::{connect, echo};
use netagent_tests::deadline::SOON;
use netagent_tests::guest::Guest;
use netagent_tests::netns::NetNs;
use netagent_tests::packet;
use netagent_tests::ping::ping;
use netagent_tests::random::Random;
use netagent_tests::server::{PORT, Server};
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{
    HOST_V4, HOST_V6, NAT_PORTS, ROUTER_V4, ROUTER_V6, World, server_v4, server_v6,
};

/// Behind the router, and on the uplink's own network.
fn remotes() -> [IpAddr; 4] {
    [
        server_v4(0).into(),
        server_v6(0).into(),
        ROUTER_V4.into(),
        ROUTER_V6.into(),
    ]
}

fn boot(world: &World, agent: &Agent, name: &str) -> Stack {
    let mut guest = Guest::create(agent, &world.host, name, Header::Vnet);
    Stack::boot(guest.nics.remove(0), 1_500)
}

pub(crate) fn echo_tcp(netns: &NetNs, remote: IpAddr, length: usize) {
    echo(connect(netns, (remote, PORT).into()).unwrap(), length);
}

pub(crate) fn echo_udp(netns: &NetNs, remote: IpAddr, length: usize) {
    let any = if remote.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = netns.run(|| UdpSocket::bind(any)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let sent = Random::new(6).bytes(length);
    socket.send_to(&sent, (remote, PORT)).unwrap();
    let mut received = vec![0; length + 1];
    let (count, from) = socket.recv_from(&mut received).unwrap();
    assert_eq!((from.ip(), &received[..count]), (remote, &sent[..]));
}

fn check_stack(configuration: &str) {
    let world = World::new();
    let agent = world.agent(configuration);
    let stack = boot(&world, &agent, "stack");
    for remote in remotes() {
        let tcp = Server::tcp(&world.outside, remote);
        let udp = Server::udp(&world.outside, remote);
        ping(&stack.netns, remote, (3, 56)).unwrap();
        echo_udp(&stack.netns, remote, 1_200);
        echo_tcp(&stack.netns, remote, 8 << 20);
        let host: IpAddr = if remote.is_ipv4() {
            HOST_V4.into()
        } else {
            HOST_V6.into()
        };
        for peer in tcp.peers().into_iter().chain(udp.peers()) {
            assert_eq!(peer.ip(), host, "the world sees the uplink's address");
            assert!(NAT_PORTS.contains(&peer.port()), "{peer}");
        }
    }
    ping(&stack.netns, IpAddr::from([172, 16, 0, 1]), (3, 56)).unwrap();
    assert_eq!(
        world.host.read_sysctl("net/ipv4/ip_forward").as_deref(),
        Some("0")
    );
    assert_eq!(
        world
            .host
            .read_sysctl("net/ipv6/conf/all/forwarding")
            .as_deref(),
        Some("0")
    );
}

#[test]
fn a_linux_guest_reaches_the_world_by_tcx() {
    check_stack("");
}

#[test]
fn a_linux_guest_reaches_the_world_by_clsact() {
    check_stack("[datapath]\nattach = \"clsact\"\n");
}

#[test]
fn two_guests_reach_one_server_from_the_same_port() {
    let world = World::new();
    let agent = world.agent("");
    let remote = IpAddr::V4(server_v4(1));
    let server = Server::udp(&world.outside, remote);
    let stacks = [boot(&world, &agent, "one"), boot(&world, &agent, "two")];
    for stack in &stacks {
        let socket = stack
            .netns
            .run(|| UdpSocket::bind("0.0.0.0:20000"))
            .unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.send_to(b"same port", (remote, PORT)).unwrap();
        socket.recv(&mut [0; 64]).unwrap();
    }
    let peers = server.peers();
    assert_eq!(peers.len(), 2);
    assert_ne!(peers[0], peers[1], "the world tells them apart");
}

#[test]
fn both_interfaces_of_an_instance_work_and_a_reply_takes_the_way_of_its_flow() {
    use netagent_tests::world::SILENT;

    use crate::exchange::{FlowTo, Protocol, Way};
    let world = World::new();
    let agent = world.agent("");
    let spec = serde_json::json!({ "name": "twice", "network_interfaces": [{}, {}] });
    let guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    assert_eq!(guest.nics.len(), 2);
    let wire = world.wire();
    for (index, nic) in guest.nics.iter().enumerate() {
        let way = Way::new(&world, nic, &wire);
        for (number, remote) in SILENT.into_iter().enumerate() {
            let port = 7_000 + 10 * index as u16 + number as u16;
            way.check(FlowTo {
                protocol: Protocol::Udp,
                remote,
                ports: (port, 7),
            });
        }
        // The other interface got none of it; advertisements of its router it may.
        while let Some(frame) = guest.nics[1 - index].tap.receive_now() {
            let transport = packet::transport(&frame.completed());
            assert!(transport.is_none_or(|transport| transport.protocol != protocol::UDP));
        }
    }
    assert_eq!(guest.answer["private_ip"], guest.nics[0].v4.to_string());
}
