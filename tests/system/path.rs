//! Paths as guests with a real stack see them: narrow ones, long ones, and ones that end (N-1, N-7).

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use netagent_tests::agent::Agent;
use netagent_tests::client::{connect, echo};
use netagent_tests::deadline::{self, SOON, wait_for, wait_until};
use netagent_tests::guest::Guest;
use netagent_tests::netns::{NetNs, join_by_veth};
use netagent_tests::ping::ping;
use netagent_tests::random::Random;
use netagent_tests::server::{PORT, Server};
use netagent_tests::stack::Stack;
use netagent_tests::sys::forbid_fragments;
use netagent_tests::tap::Header;
use netagent_tests::world::{
    FAR_END, HOST_V4, HOST_V6, ROUTER_V4, ROUTER_V6, UPLINK, World, server_v4, server_v6,
};
use serde_json::json;

use crate::stacks::{echo_tcp, echo_udp};

/// Behind the world's router, by a cable that carries 1,300 bytes.
const FAR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x400, 0, 0, 0, 0, 2)),
];
const NARROW_MTU: u32 = 1_300;

/// A world with one more hop.
struct Long {
    world: World,
    far: NetNs,
}

impl Long {
    fn new() -> Self {
        let (world, far) = (World::new(), NetNs::new());
        let outside = &world.outside;
        join_by_veth((outside, "narrow0"), (&far, "narrow1"));
        for (netns, name, host) in [(outside, "narrow0", 1), (&far, "narrow1", 2)] {
            netns.ip(&format!("link set {name} mtu {NARROW_MTU}"));
            netns.ip(&format!("address add 192.0.2.{host}/24 dev {name}"));
            netns.ip(&format!(
                "address add 2001:db8:400::{host}/64 dev {name} nodad"
            ));
            // Every probe of a traceroute is answered.
            netns.sysctl("net/ipv4/icmp_ratelimit", "0");
            netns.sysctl("net/ipv6/icmp/ratelimit", "0");
        }
        far.ip("route add default via 192.0.2.1");
        far.ip("route add default via 2001:db8:400::1");
        outside.sysctl("net/ipv4/ip_forward", "1");
        outside.sysctl("net/ipv6/conf/all/forwarding", "1");
        Self { world, far }
    }

    fn boot(&self, agent: &Agent, name: &str) -> Stack {
        boot(&self.world, agent, name)
    }
}

fn boot(world: &World, agent: &Agent, name: &str) -> Stack {
    let mut guest = Guest::create(agent, &world.host, name, Header::Vnet);
    Stack::boot(guest.nics.remove(0), 1_500)
}

/// In both families: an address of the world's router's own network.
pub(crate) fn near() -> [IpAddr; 2] {
    [server_v4(0).into(), server_v6(0).into()]
}

pub(crate) fn udp_to(netns: &NetNs, remote: SocketAddr) -> UdpSocket {
    let any = if remote.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = netns.run(|| UdpSocket::bind(any)).unwrap();
    socket.connect(remote).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

#[test]
fn megabytes_cross_a_path_of_1300_bytes_both_ways() {
    let long = Long::new();
    let agent = long.world.agent("");
    let stack = long.boot(&agent, "narrow");
    for remote in FAR {
        let _tcp = Server::tcp(&long.far, remote);
        echo_tcp(&stack.netns, remote, 8 << 20);
    }
}

/// A datagram that must not be fragmented is refused once the path is known, and one that fits arrives.
pub(crate) fn check_path_mtu(netns: &NetNs, remote: IpAddr, mtu: u32) {
    let headers = if remote.is_ipv4() { 28 } else { 48 };
    let socket = udp_to(netns, (remote, PORT).into());
    forbid_fragments(socket.as_fd(), remote.is_ipv4()).unwrap();
    let large = vec![7; mtu as usize - headers + 1];
    wait_until("a datagram is too large", SOON, || {
        match socket.send(&large) {
            Err(error) => error.raw_os_error() == Some(nix::libc::EMSGSIZE),
            Ok(_) => false,
        }
    });
    let fitting = vec![8; mtu as usize - headers];
    let mut received = vec![0; 2_000];
    wait_until("one that fits comes back", SOON, || {
        // The error about the one before may be reported first, and answers to those that passed meanwhile.
        let length = socket
            .send(&fitting)
            .and_then(|_| socket.recv(&mut received));
        length.is_ok_and(|length| received[..length] == fitting)
    });
}

#[test]
fn a_guest_learns_the_mtu_of_a_narrow_path_from_the_routers_error() {
    let long = Long::new();
    let agent = long.world.agent("");
    let stack = long.boot(&agent, "quic");
    for remote in FAR {
        let _udp = Server::udp(&long.far, remote);
        check_path_mtu(&stack.netns, remote, NARROW_MTU);
    }
    assert_eq!(agent.guest_drops("quic"), Default::default());
}

#[test]
fn a_guest_learns_the_mtu_of_the_hosts_own_route_from_its_gateway() {
    let world = World::new();
    let agent = world.agent("");
    let stack = boot(&world, &agent, "route");
    let tcp = near().map(|remote| Server::tcp(&world.outside, remote));
    let streams = near().map(|remote| {
        let stream = connect(&stack.netns, (remote, PORT).into());
        (remote, stream.unwrap())
    });
    // Narrower than what these connections agreed on.
    world
        .host
        .ip(&format!("route change default via {ROUTER_V4} mtu 1300"));
    world.host.ip(&format!(
        "-6 route change default via {ROUTER_V6} dev {UPLINK} mtu 1300"
    ));
    for remote in near() {
        let _udp = Server::udp(&world.outside, remote);
        check_path_mtu(&stack.netns, remote, 1_300);
    }
    // The guest's own view of these paths is narrow by now; of connections it learns by its segments alone.
    stack.netns.ip("route flush cache");
    stack.netns.ip("-6 route flush cache");
    for (remote, stream) in streams {
        echo(stream, 4 << 20);
        // And new ones agree on less.
        echo_tcp(&stack.netns, remote, 1 << 20);
    }
    drop(tcp);
    assert!(agent.drops("route")["too_big"] > 0);
}

#[test]
fn the_world_learns_the_mtu_of_a_guest() {
    let world = World::new();
    let agent = world.agent("");
    let spec = json!({"name": "small", "mtu": 1_280});
    let mut guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    let stack = Stack::boot(guest.nics.remove(0), 1_280);
    for remote in near() {
        let server = world
            .outside
            .run(|| UdpSocket::bind((remote, PORT)))
            .unwrap();
        server.set_read_timeout(Some(SOON)).unwrap();
        forbid_fragments(server.as_fd(), remote.is_ipv4()).unwrap();
        let client = udp_to(&stack.netns, (remote, PORT).into());
        client.send(b"who is there").unwrap();
        let (_, peer) = server.recv_from(&mut [0; 64]).unwrap();
        server.connect(peer).unwrap();
        let large = vec![7; 1_400];
        wait_until("an answer is too large", SOON, || {
            let sent = server.send(&large);
            sent.is_err_and(|error| error.raw_os_error() == Some(nix::libc::EMSGSIZE))
        });
        let _tcp = Server::tcp(&world.outside, remote);
        echo_tcp(&stack.netns, remote, 4 << 20);
    }
}

/// A line for every hop, in order.
pub(crate) fn hops(output: &str) -> Vec<&str> {
    output
        .lines()
        .filter(|line| {
            line.trim_start()
                .starts_with(|first: char| first.is_ascii_digit())
        })
        .collect()
}

#[test]
fn traceroute_and_tracepath_find_every_hop() {
    let long = Long::new();
    let agent = long.world.agent("");
    let stack = long.boot(&agent, "trace");
    let way = [
        [
            "172.16.0.1".to_owned(),
            ROUTER_V4.to_string(),
            FAR[0].to_string(),
        ],
        [
            "fe80::1".to_owned(),
            ROUTER_V6.to_string(),
            FAR[1].to_string(),
        ],
    ];
    for (remote, way) in FAR.into_iter().zip(way) {
        let family = if remote.is_ipv4() { 4 } else { 6 };
        for method in ["", "-I", "-T -p 9"] {
            let line = format!("traceroute -{family} -n -q 2 -w 3 {method} {remote}");
            let output = stack.netns.shell(&line);
            let hops = hops(&output);
            assert_eq!(hops.len(), 3, "{line}: {output}");
            for (hop, address) in hops.iter().zip(&way) {
                assert!(
                    hop.contains(address.as_str()) && !hop.contains('*'),
                    "{line}: {output}"
                );
            }
        }
        let output = stack
            .netns
            .shell(&format!("tracepath -{family} -n {remote}"));
        for address in &way {
            assert!(output.contains(address.as_str()), "{output}");
        }
        assert!(output.contains("Resume: pmtu 1300 hops 3"), "{output}");
    }
}

#[test]
fn a_closed_port_is_reported_to_either_side() {
    let world = World::new();
    let agent = world.agent("");
    let stack = boot(&world, &agent, "closed");
    for remote in near() {
        let nobody = udp_to(&stack.netns, (remote, 9).into());
        nobody.send(b"is anybody there").unwrap();
        let refused = nobody.recv(&mut [0; 64]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{remote}");

        let server = world
            .outside
            .run(|| UdpSocket::bind((remote, PORT)))
            .unwrap();
        server.set_read_timeout(Some(SOON)).unwrap();
        let client = udp_to(&stack.netns, (remote, PORT).into());
        client.send(b"and gone").unwrap();
        drop(client);
        let (_, peer) = server.recv_from(&mut [0; 64]).unwrap();
        server.connect(peer).unwrap();
        server.send(b"are you there").unwrap();
        let refused = server.recv(&mut [0; 64]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{remote}");
    }
    assert_eq!(agent.guest_drops("closed"), Default::default());
}

#[test]
fn what_is_forbidden_is_refused_at_once() {
    let world = World::new();
    let agent = world.agent("");
    let stack = boot(&world, &agent, "forbidden");
    let forbidden = [
        "169.254.169.254:80",
        "198.51.100.2:22",
        "172.16.0.1:22",
        "[2001:db8:100::2]:22",
    ];
    for address in forbidden {
        let address: SocketAddr = address.parse().unwrap();
        let started = deadline::now();
        let connected = stack
            .netns
            .run(|| TcpStream::connect_timeout(&address, SOON));
        let refused = connected.unwrap_err();
        let kinds = [
            ErrorKind::HostUnreachable,
            ErrorKind::NetworkUnreachable,
            ErrorKind::PermissionDenied,
        ];
        assert!(kinds.contains(&refused.kind()), "{address}: {refused}");
        assert!(
            started.elapsed() < SOON / 4,
            "{address}: {:?}",
            started.elapsed()
        );
    }
}

#[test]
fn datagrams_of_64_kilobytes_and_large_pings_cross_in_fragments() {
    let world = World::new();
    let agent = world.agent("");
    let stack = boot(&world, &agent, "pieces");
    for remote in near()
        .into_iter()
        .chain([ROUTER_V4.into(), ROUTER_V6.into()])
    {
        let _udp = Server::udp(&world.outside, remote);
        for length in [1_473, 4_096, 20_000, 65_507] {
            echo_udp(&stack.netns, remote, length);
        }
        ping(&stack.netns, remote, (3, 20_000)).unwrap();
    }
    assert_eq!(agent.guest_drops("pieces"), Default::default());
}

#[test]
fn fragments_find_their_way_by_a_narrow_path() {
    let long = Long::new();
    let agent = long.world.agent("");
    let stack = long.boot(&agent, "both");
    for remote in FAR {
        let server = Server::udp(&long.far, remote);
        let sent = Random::new(9).bytes(30_000);
        let socket = udp_to(&stack.netns, (remote, PORT).into());
        socket.set_read_timeout(Some(SOON / 20)).unwrap();
        let mut received = vec![0; 65_536];
        // The first ones are lost: with them the guest learns how large its fragments may be.
        let length = wait_for("a datagram in fragments", SOON, || {
            socket.send(&sent).ok()?;
            socket.recv(&mut received).ok()
        });
        assert!(received[..length] == sent[..], "{remote}");
        assert!(!server.peers().is_empty());
    }
}

#[test]
fn answers_in_fragments_reach_a_guest_of_a_smaller_mtu() {
    let world = World::new();
    let agent = world.agent("");
    let spec = json!({"name": "answers", "mtu": 1_300});
    let mut guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    let stack = Stack::boot(guest.nics.remove(0), 1_300);
    // A large answer of a name server, say, by a way that is no wider.
    let outside = &world.outside;
    outside.ip(&format!("route add {HOST_V4}/32 dev {FAR_END} mtu 1300"));
    outside.ip(&format!("route add {HOST_V6}/128 dev {FAR_END} mtu 1300"));
    for remote in near() {
        let _udp = Server::udp(outside, remote);
        echo_udp(&stack.netns, remote, 4_000);
    }
    assert_eq!(agent.guest_drops("answers"), Default::default());
}
