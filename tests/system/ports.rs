//! Ports where there are many: thousands of connections to one server, and of the host beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::SOON;
use netagent_tests::guest::Guest;
use netagent_tests::netns::NetNs;
use netagent_tests::server::{PORT, Server};
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{HOST_V4, NAT_PORTS, World, server_v4, server_v6};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

fn boot(world: &World, agent: &Agent, name: &str) -> Stack {
    let mut guest = Guest::create(agent, &world.host, name, Header::Vnet);
    Stack::boot(guest.nics.remove(0), 1_500)
}

/// As many descriptors as may be: each socket is one.
fn raise_descriptor_limit() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

/// A connection that says one byte, hears it, and ends; on a thread that is in the guest already.
fn talk(remote: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&remote, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_nodelay(true)?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

#[test]
fn ten_thousand_short_connections_to_one_server_succeed_and_another_guest_notices_nothing() {
    const COUNT: usize = 10_000;
    let world = World::new();
    let agent = world.agent("");
    let (one, two) = (boot(&world, &agent, "one"), boot(&world, &agent, "two"));
    let remote: IpAddr = server_v4(0).into();
    let server = Server::tcp(&world.outside, remote);
    let address = SocketAddr::new(remote, PORT);
    one.netns.run(|| {
        for number in 0..COUNT {
            let talked = talk(address);
            talked.unwrap_or_else(|error| {
                panic!(
                    "connection {number}: {error}: {:?}",
                    agent.guest_drops("one")
                )
            });
            if number % 1_000 == 0 {
                two.netns.run(|| talk(address)).unwrap();
            }
        }
    });
    assert_eq!(agent.guest_drops("one"), BTreeMap::new());
    assert_eq!(agent.guest_drops("two"), BTreeMap::new());
    let peers = server.peers();
    assert_eq!(peers.len(), COUNT + COUNT / 1_000);
    assert!(peers.iter().all(|peer| NAT_PORTS.contains(&peer.port())));
    let ports: BTreeSet<u16> = peers.iter().map(SocketAddr::port).collect();
    let half = NAT_PORTS.len() / 2;
    assert!(
        ports.len() < 2 * half,
        "ports were used again: {}",
        ports.len()
    );
}

/// Sockets of a namespace, each bound where it is told.
fn sockets(
    netns: &NetNs,
    remote: IpAddr,
    ports: impl Iterator<Item = u16> + Send,
) -> Vec<UdpSocket> {
    let any: IpAddr = if remote.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    netns.run(|| {
        let bound = ports.map(|port| {
            let socket = UdpSocket::bind((any, port)).unwrap();
            socket.set_read_timeout(Some(SOON)).unwrap();
            socket.connect((remote, PORT)).unwrap();
            socket
        });
        bound.collect()
    })
}

/// Every socket asks, and gets its own answer and nobody else's.
fn check_own_answers(sockets: &[UdpSocket], whose: &str) {
    for (number, socket) in sockets.iter().enumerate() {
        let question = format!("{whose} {number}");
        socket.send(question.as_bytes()).unwrap();
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer);
        let length = length.unwrap_or_else(|error| panic!("{question}: {error}"));
        assert_eq!(&answer[..length], question.as_bytes());
    }
}

#[test]
fn thousands_of_sockets_of_the_host_and_of_a_guest_never_share_a_port() {
    const AUTOMATIC: usize = 3_000;
    const GUESTS: u16 = 3_000;
    raise_descriptor_limit();
    let world = World::new();
    let agent = world.agent("");
    let stack = boot(&world, &agent, "beside");
    for remote in [IpAddr::V4(server_v4(0)), IpAddr::V6(server_v6(0))] {
        let server = Server::udp(&world.outside, remote);
        // One in nine of the ports that stand for guests is bound by the host, which ignores the range; and it has
        // many whose port the kernel chose.
        let explicit = sockets(&world.host, remote, NAT_PORTS.step_by(9));
        let automatic = sockets(&world.host, remote, std::iter::repeat_n(0, AUTOMATIC));
        // The guest would keep its own ports, of which the host holds some.
        let guests = sockets(&stack.netns, remote, NAT_PORTS.take(GUESTS.into()));
        for round in 0..2 {
            check_own_answers(&explicit, &format!("bound {round}"));
            check_own_answers(&guests, &format!("guest {round}"));
            check_own_answers(&automatic, &format!("automatic {round}"));
        }
        let peers: BTreeSet<SocketAddr> = server.peers().into_iter().collect();
        let sockets = explicit.len() + automatic.len() + guests.len();
        assert_eq!(peers.len(), sockets, "each has a port of its own");
    }
    assert_eq!(agent.guest_drops("beside"), BTreeMap::new());
}

#[test]
fn a_guest_that_exhausts_its_ports_towards_one_server_takes_none_from_another_guest() {
    raise_descriptor_limit();
    let world = World::new();
    // So few that a guest's half is soon used up.
    let agent = world.agent("[nat]\nports = \"16384-16639\"\n");
    let (greedy, modest) = (
        boot(&world, &agent, "greedy"),
        boot(&world, &agent, "modest"),
    );
    let remote: IpAddr = server_v4(0).into();
    let server = Server::udp(&world.outside, remote);
    let many = |stack: &Stack, count| sockets(&stack.netns, remote, std::iter::repeat_n(0, count));
    let first = many(&greedy, 50);
    check_own_answers(&first, "first");
    let others = many(&greedy, 350);
    for socket in &others {
        socket.send(b"?").unwrap();
    }
    let answered = || {
        let peers: BTreeSet<SocketAddr> = server.peers().into_iter().collect();
        peers.len()
    };
    netagent_tests::deadline::wait_until("the guest has run out of ports", SOON, || {
        agent.guest_drops("greedy").contains_key("snat_exhausted")
    });
    check_own_answers(&first, "again");
    assert!(answered() <= 128, "no more than half of the range");
    check_own_answers(&many(&modest, 60), "modest");
    assert_eq!(agent.guest_drops("modest"), BTreeMap::new());
    // Towards another server there are ports again.
    let elsewhere: IpAddr = server_v4(1).into();
    let _server = Server::udp(&world.outside, elsewhere);
    // Refused a moment ago, it finds them with few tries, and among so few ports may have to ask twice.
    let socket = sockets(&greedy.netns, elsewhere, std::iter::once(0)).remove(0);
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    netagent_tests::deadline::wait_until("another server answers", SOON, || {
        socket.send(b"elsewhere").is_ok() && socket.recv(&mut [0; 64]).is_ok()
    });
    let local = HOST_V4;
    assert!(server.peers().iter().all(|peer| peer.ip() == local));
}

/// The ports by which the world sees a socket: of the datagrams that each server got of it.
fn seen_by<'a>(servers: impl IntoIterator<Item = &'a Server>) -> BTreeSet<SocketAddr> {
    let peers = servers.into_iter().flat_map(Server::peers);
    peers.collect()
}

/// A socket of the guest asks all servers, and all answer.
fn ask_all(socket: &UdpSocket, remotes: &[IpAddr]) {
    for remote in remotes {
        socket.send_to(b"who am I?", (*remote, PORT)).unwrap();
        let (_, from) = socket.recv_from(&mut [0; 64]).unwrap();
        assert_eq!(from.ip(), *remote);
    }
}

/// A socket that is bound and asks whom it likes.
fn unconnected(netns: &NetNs, is_v4: bool) -> UdpSocket {
    let any = if is_v4 { "0.0.0.0:0" } else { "[::]:0" };
    let socket = netns.run(|| UdpSocket::bind(any)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

fn remotes(is_v4: bool) -> Vec<IpAddr> {
    let of = |index| -> IpAddr {
        if is_v4 {
            server_v4(index).into()
        } else {
            server_v6(index).into()
        }
    };
    (0..4).map(of).collect()
}

#[test]
fn servers_agree_on_the_port_of_a_guests_socket_as_long_as_it_has_few() {
    const MAPPED: usize = 64;
    for is_v4 in [true, false] {
        let world = World::new();
        let agent = world.agent("");
        let stack = boot(&world, &agent, "stun");
        let remotes = remotes(is_v4);
        let mut known = BTreeSet::new();
        let mut sockets = Vec::new();
        for number in 0..MAPPED {
            let servers = remotes
                .iter()
                .map(|remote| Server::udp(&world.outside, *remote));
            let servers: Vec<Server> = servers.collect();
            let socket = unconnected(&stack.netns, is_v4);
            ask_all(&socket, &remotes);
            let seen = seen_by(&servers);
            assert_eq!(seen.len(), 1, "socket {number}: {seen:?}");
            assert!(known.is_disjoint(&seen), "socket {number}: {seen:?}");
            known.extend(seen);
            sockets.push(socket);
        }
        let servers = remotes
            .iter()
            .map(|remote| Server::udp(&world.outside, *remote));
        let servers: Vec<Server> = servers.collect();
        let one_more = unconnected(&stack.netns, is_v4);
        ask_all(&one_more, &remotes);
        let seen = seen_by(&servers);
        assert_eq!(seen.len(), remotes.len(), "it depends on the server");
        assert!(known.is_disjoint(&seen));
        assert_eq!(agent.guest_drops("stun"), BTreeMap::new());
    }
}

/// What a socket of the world sends to a port that a guest's socket is known by arrives, or does not.
fn check_filtering(configuration: &str, is_open: bool) {
    for is_v4 in [true, false] {
        let world = World::new();
        let agent = world.agent(configuration);
        let stack = boot(&world, &agent, "filter");
        let remotes = remotes(is_v4);
        let server = Server::udp(&world.outside, remotes[0]);
        let socket = unconnected(&stack.netns, is_v4);
        ask_all(&socket, &remotes[..1]);
        let known = *seen_by([&server]).first().unwrap();
        // Another address, and another port of the address that was asked.
        for remote in [remotes[1], remotes[0]] {
            let stranger = world
                .outside
                .run(|| UdpSocket::bind((remote, 999)))
                .unwrap();
            stranger.set_read_timeout(Some(SOON)).unwrap();
            stranger.send_to(b"hello", known).unwrap();
            if is_open {
                let mut buffer = [0; 64];
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(
                    (&buffer[..length], from),
                    (&b"hello"[..], (remote, 999).into())
                );
                socket.send_to(b"hello yourself", from).unwrap();
                let (length, from) = stranger.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..length], from), (&b"hello yourself"[..], known));
            } else {
                // What is asked for comes later than what was sent before, and it is all that comes.
                ask_all(&socket, &remotes[..1]);
                socket.set_nonblocking(true).unwrap();
                let error = socket.recv_from(&mut [0; 64]).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                socket.set_nonblocking(false).unwrap();
            }
        }
    }
}

#[test]
fn strangers_reach_no_socket_of_a_guest() {
    check_filtering("", false);
}

#[test]
fn strangers_reach_a_socket_of_a_guest_where_filtering_is_by_endpoint() {
    check_filtering("[nat]\nfiltering = \"endpoint\"\n", true);
}

#[test]
fn a_full_table_refuses_new_flows_and_says_so_once_and_open_ones_go_on() {
    const FLOWS: usize = 200;
    raise_descriptor_limit();
    let world = World::new();
    let agent = world.agent(&format!("[datapath]\nflows = {FLOWS}\n"));
    let (one, two) = (boot(&world, &agent, "one"), boot(&world, &agent, "two"));
    let remote: IpAddr = server_v4(0).into();
    let _server = Server::udp(&world.outside, remote);
    let open = sockets(&one.netns, remote, std::iter::repeat_n(0, FLOWS * 7 / 10));
    check_own_answers(&open, "open");
    let warning = "a table of the host fills up table=\"flows of IPv4\"";
    let warned = || agent.log().matches(warning).count();
    assert_eq!(warned(), 0);
    // Far more than there is room for.
    let more = sockets(&two.netns, remote, std::iter::repeat_n(0, FLOWS));
    for socket in &more {
        socket.send(b"?").unwrap();
    }
    netagent_tests::deadline::wait_until("the table is full", SOON, || {
        agent.guest_drops("two").contains_key("flow_table_full")
    });
    check_own_answers(&open, "still open");
    netagent_tests::deadline::wait_until("the log says so", 2 * SOON, || warned() == 1);
    let log = agent.log();
    assert!(log.contains("count=200 most=200 percent=100"), "{log}");
    check_own_answers(&open, "open after all");
    assert_eq!(warned(), 1);
    assert_eq!(agent.guest_drops("one"), BTreeMap::new());
}
