//! Published and exposed ports on real packets: from the world, from the host itself, from other guests, and past
//! everything that eBPF does not see.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use netagent_tests::agent::Agent;
use netagent_tests::client::{connect, connect_from, echo};
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::guest::Guest;
use netagent_tests::netns::{NetNs, join_by_veth};
use netagent_tests::server::{PORT, Server};
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{HOST_V4, HOST_V6, World, host_address, server_v4, server_v6};
use serde_json::json;

/// Published on every address of the host.
const OPEN: u16 = 8_080;
/// Published on loopback alone.
const LOCAL: u16 = 9_090;
/// Published for a network in which no client is.
const LIMITED: u16 = 10_010;

/// How long nothing must come.
const NEVER: Duration = Duration::from_millis(700);

const WORLDS: [bool; 2] = [true, false];

/// An instance whose servers are published, and echo servers in it.
struct Site {
    servers: Vec<Server>,
    web: Stack,
    addresses: [IpAddr; 2],
    agent: Agent,
    world: World,
}

impl Site {
    fn new(configuration: &str) -> Self {
        let world = World::new();
        let agent = world.agent(configuration);
        let spec = json!({
            "name": "web",
            "publish": [
                format!("{OPEN}:{PORT}"),
                format!("{OPEN}:{PORT}/udp"),
                format!("127.0.0.1:{LOCAL}:{PORT}"),
                format!("[::1]:{LOCAL}:{PORT}"),
                format!("{LIMITED}:{PORT} from 192.0.2.0/24, 2001:db8:ffff::/64"),
            ],
        });
        let mut guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
        let addresses = [guest.nic().address(true), guest.nic().address(false)];
        let web = Stack::boot(guest.nics.remove(0), 1_500);
        let servers = addresses
            .iter()
            .flat_map(|address| {
                [
                    Server::tcp(&web.netns, *address),
                    Server::udp(&web.netns, *address),
                ]
            })
            .collect();
        Self {
            servers,
            web,
            addresses,
            agent,
            world,
        }
    }

    fn address(&self, is_v4: bool) -> IpAddr {
        self.addresses[usize::from(!is_v4)]
    }

    /// Who the server saw last.
    fn last_peer(&self, is_v4: bool, is_tcp: bool) -> IpAddr {
        let server = &self.servers[2 * usize::from(!is_v4) + usize::from(!is_tcp)];
        let peers = server.peers();
        peers.last().expect("somebody came").ip()
    }

    /// Another guest.
    fn other(&self) -> Stack {
        let mut guest = Guest::create(&self.agent, &self.world.host, "other", Header::Vnet);
        Stack::boot(guest.nics.remove(0), 1_500)
    }
}

fn loopback(is_v4: bool) -> IpAddr {
    if is_v4 {
        Ipv4Addr::LOCALHOST.into()
    } else {
        Ipv6Addr::LOCALHOST.into()
    }
}

pub(crate) fn check_tcp(netns: &NetNs, to: SocketAddr, length: usize) {
    let stream = connect(netns, to).unwrap_or_else(|error| panic!("{to}: {error}"));
    assert_eq!(stream.peer_addr().unwrap(), to, "it talks to whom it asked");
    echo(stream, length);
}

fn udp_socket(netns: &NetNs, is_v4: bool) -> UdpSocket {
    let any = if is_v4 { "0.0.0.0:0" } else { "[::]:0" };
    let socket = netns.run(|| UdpSocket::bind(any)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

pub(crate) fn check_udp(netns: &NetNs, to: SocketAddr) {
    let socket = udp_socket(netns, to.is_ipv4());
    let mut received = [0; 64];
    for word in ["first", "second"] {
        socket.send_to(word.as_bytes(), to).unwrap();
        let (count, from) = socket.recv_from(&mut received).unwrap();
        assert_eq!((from, &received[..count]), (to, word.as_bytes()));
    }
    let connected = udp_socket(netns, to.is_ipv4());
    connected.connect(to).unwrap();
    assert_eq!(connected.peer_addr().unwrap(), to);
    connected.send(b"third").unwrap();
    let count = connected.recv(&mut received).unwrap();
    assert_eq!(&received[..count], b"third");
}

pub(crate) fn check_refused(netns: &NetNs, to: SocketAddr) {
    let refused = netns.run(|| TcpStream::connect_timeout(&to, NEVER));
    let kind = refused.map(|_| ()).expect_err("nobody answers").kind();
    assert!(
        matches!(
            kind,
            ErrorKind::TimedOut
                | ErrorKind::ConnectionRefused
                | ErrorKind::HostUnreachable
                | ErrorKind::PermissionDenied
                | ErrorKind::NetworkUnreachable
                | ErrorKind::ConnectionReset
        ),
        "{to}: {kind:?}"
    );
}

fn check_from_world(configuration: &str) {
    let site = Site::new(configuration);
    let clients: [IpAddr; 2] = [server_v4(3).into(), server_v6(3).into()];
    for client in clients {
        let to = SocketAddr::new(host_address(client.is_ipv4()), OPEN);
        let stream = connect_from(&site.world.outside, (client, 40_000).into(), to);
        echo(stream, 8 << 20);
        assert_eq!(
            site.last_peer(client.is_ipv4(), true),
            client,
            "the guest sees the client's own address"
        );
        check_udp(&site.world.outside, to);
    }
}

#[test]
fn the_world_reaches_a_published_port_by_tcx() {
    check_from_world("");
}

#[test]
fn the_world_reaches_a_published_port_by_clsact() {
    check_from_world("[datapath]\nattach = \"clsact\"\n");
}

#[test]
fn processes_of_the_host_reach_it_by_every_own_address_also_without_the_agent() {
    let mut site = Site::new("");
    for without_agent in [false, true] {
        if without_agent {
            site.agent.kill9();
        }
        for is_v4 in WORLDS {
            for address in [loopback(is_v4), host_address(is_v4)] {
                let to = SocketAddr::new(address, OPEN);
                check_tcp(&site.world.host, to, 1 << 20);
                check_udp(&site.world.host, to);
            }
            check_tcp(
                &site.world.host,
                SocketAddr::new(loopback(is_v4), LOCAL),
                1_000,
            );
        }
        let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{OPEN}").parse().unwrap();
        check_tcp(&site.world.host, mapped, 1_000);
    }
}

#[test]
fn a_socket_that_is_bound_to_loopback_is_carried_by_the_agent() {
    let site = Site::new("");
    for is_v4 in WORLDS {
        for port in [OPEN, LOCAL] {
            let from = SocketAddr::new(loopback(is_v4), 41_000 + port);
            let stream = connect_from(&site.world.host, from, (loopback(is_v4), port).into());
            echo(stream, 1 << 20);
        }
    }
}

#[test]
fn another_network_of_the_host_reaches_it_through_the_agent() {
    let site = Site::new("");
    let container = NetNs::new();
    join_by_veth((&site.world.host, "docker7"), (&container, "eth0"));
    site.world.host.ip("address add 10.77.0.1/24 dev docker7");
    container.ip("address add 10.77.0.2/24 dev eth0");
    container.ip("route add default via 10.77.0.1");
    let own = SocketAddr::from(([10, 77, 0, 1], OPEN));
    check_tcp(&container, own, 1 << 20);
    let socket = udp_socket(&container, true);
    socket.send_to(b"datagram", own).unwrap();
    let mut received = [0; 64];
    let (count, from) = socket.recv_from(&mut received).unwrap();
    assert_eq!((from, &received[..count]), (own, &b"datagram"[..]));
    check_refused(&container, SocketAddr::from(([10, 77, 0, 1], LOCAL)));
    // The agent's socket takes the connection and, seeing who it is, ends it: before the client knows that it stands,
    // or after.
    let ended = connect(&container, ([10, 77, 0, 1], LIMITED).into());
    let read = ended.and_then(|mut ended| ended.read(&mut [0; 8]));
    let error = read.expect_err("it leads nowhere");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn the_sockets_of_another_namespace_are_left_alone() {
    let site = Site::new("");
    let elsewhere = NetNs::new();
    elsewhere.ip("link set lo up");
    let refused = connect(&elsewhere, (Ipv4Addr::LOCALHOST, OPEN).into());
    assert_eq!(
        refused.map(|_| ()).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    drop(site);
}

#[test]
fn guests_reach_it_by_the_hosts_address_and_so_does_its_own() {
    let site = Site::new("");
    let other = site.other();
    for is_v4 in WORLDS {
        let to = SocketAddr::new(host_address(is_v4), OPEN);
        for netns in [&other.netns, &site.web.netns] {
            check_tcp(netns, to, 4 << 20);
            check_udp(netns, to);
        }
        assert_eq!(site.last_peer(is_v4, true), host_address(is_v4));
        check_refused(&other.netns, SocketAddr::new(site.address(is_v4), PORT));
        check_refused(&other.netns, SocketAddr::new(host_address(is_v4), 22));
    }
}

#[test]
fn a_port_published_on_loopback_is_reached_from_nowhere_else() {
    let site = Site::new("");
    let other = site.other();
    // Whoever is one hop away may route loopback addresses to the host.
    site.world
        .outside
        .try_shell(&format!("ip route add 127.0.0.1/32 via {HOST_V4}"));
    for is_v4 in WORLDS {
        for address in [host_address(is_v4), loopback(is_v4)] {
            let to = SocketAddr::new(address, LOCAL);
            check_refused(&site.world.outside, to);
            check_refused(&other.netns, to);
        }
    }
}

#[test]
fn only_those_who_may_reach_a_limited_port_and_the_host_itself() {
    let site = Site::new("");
    let other = site.other();
    site.world.outside.ip("address add 192.0.2.9/32 dev lo");
    site.world
        .host
        .ip("route add 192.0.2.0/24 via 198.51.100.1");
    let to = SocketAddr::new(HOST_V4.into(), LIMITED);
    check_refused(&site.world.outside, to);
    check_refused(&other.netns, to);
    check_refused(&other.netns, SocketAddr::new(HOST_V6.into(), LIMITED));
    let admitted: IpAddr = [192, 0, 2, 9].into();
    wait_until("the route is known", SOON, || {
        let from = SocketAddr::new(admitted, 0);
        site.world.outside.run(|| {
            let socket = UdpSocket::bind(from).unwrap();
            socket.connect((HOST_V4, OPEN)).unwrap();
            socket.set_read_timeout(Some(NEVER)).unwrap();
            socket.send(b"there?").unwrap();
            socket.recv(&mut [0; 16]).is_ok()
        })
    });
    echo(
        connect_from(&site.world.outside, (admitted, 42_000).into(), to),
        1_000,
    );
    check_tcp(&site.world.host, to, 1_000);
}

#[test]
fn a_replacement_ends_what_is_published_no_more_and_nothing_else() {
    let site = Site::new("");
    let to = |port| SocketAddr::new(HOST_V4.into(), port);
    let client = IpAddr::V4(server_v4(2));
    let open = |port, own: u16| connect_from(&site.world.outside, (client, own).into(), to(port));
    let second = json!({ "publish": [format!("{OPEN}:{PORT}"), format!("8081:{PORT}")] });
    let answer = site
        .agent
        .api("PUT", "/v1/instances/web/publish", &second.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    let (mut kept, mut ended) = (open(OPEN, 43_000), open(8_081, 43_001));
    for stream in [&mut kept, &mut ended] {
        stream.write_all(b"before").unwrap();
        stream.read_exact(&mut [0; 6]).unwrap();
    }
    let third = json!({ "publish": [format!("{OPEN}:{PORT}")] });
    let answer = site
        .agent
        .api("PUT", "/v1/instances/web/publish", &third.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    kept.write_all(b"after").unwrap();
    kept.read_exact(&mut [0; 5]).unwrap();
    ended.set_read_timeout(Some(NEVER)).unwrap();
    let gone = ended
        .write_all(b"after")
        .and_then(|()| ended.read_exact(&mut [0; 5]));
    assert!(gone.is_err(), "nothing reaches the guest any more");
    check_refused(&site.world.outside, to(8_081));
    check_refused(&site.world.host, to(8_081));
}

#[test]
fn the_host_reaches_exposed_ports_of_the_guests_own_address_and_no_others() {
    let site = Site::new("");
    for is_v4 in WORLDS {
        check_refused(&site.world.host, SocketAddr::new(site.address(is_v4), PORT));
    }
    let exposed = json!({ "exposed_ports": [PORT] });
    let answer = site
        .agent
        .api("PUT", "/v1/instances/web/publish", &exposed.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    for is_v4 in WORLDS {
        check_tcp(
            &site.world.host,
            SocketAddr::new(site.address(is_v4), PORT),
            1 << 20,
        );
        check_refused(&site.world.host, SocketAddr::new(site.address(is_v4), 22));
        check_refused(
            &site.world.outside,
            SocketAddr::new(site.address(is_v4), PORT),
        );
    }
}
