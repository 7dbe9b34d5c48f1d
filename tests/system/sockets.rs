//! Sockets of the host: no guest takes their port, and what is meant for them reaches them.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use netagent_tests::agent::Agent;
use netagent_tests::client::connect_from;
use netagent_tests::deadline::{SOON, wait_for, wait_until};
use netagent_tests::frame::Frame;
use netagent_tests::guest::Guest;
use netagent_tests::packet;
use netagent_tests::raw::Raw;
use netagent_tests::server::{PORT, Server};
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, World, host_address, server_v4, server_v6};

use crate::exchange::{FlowTo, Protocol, Way};

/// In the range of the ports by which the world sees guests: a guest that sends from it would keep it.
const HOST_PORT: u16 = 20_000;

/// A port for each family: where another test starts a process meanwhile, a closed socket lives until its exec.
fn host_port(remote: IpAddr) -> u16 {
    HOST_PORT + if remote.is_ipv4() { 0 } else { 10 }
}

fn setup() -> (World, Agent, Guest, Raw) {
    setup_as("")
}

fn setup_as(configuration: &str) -> (World, Agent, Guest, Raw) {
    let world = World::new();
    let agent = world.agent(configuration);
    let guest = Guest::create(&agent, &world.host, "twin", Header::Vnet);
    let wire = world.wire();
    (world, agent, guest, wire)
}

fn any(is_v4: bool) -> IpAddr {
    if is_v4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

fn servers() -> [IpAddr; 2] {
    [server_v4(0).into(), server_v6(0).into()]
}

/// The guest talks to the remote from the port of the host's socket, and gets another.
fn check_guest_gets_another(way: &Way<'_>, flow: FlowTo) {
    let nat_port = way.check(flow);
    assert_ne!(nat_port, flow.ports.0, "{flow:?}: it is the host's");
}

fn check_datagrams((world, way): (&World, &Way<'_>), remote: IpAddr, local: IpAddr, joined: bool) {
    let flow = FlowTo {
        protocol: Protocol::Udp,
        remote,
        ports: (host_port(remote), 7),
    };
    let socket = world
        .host
        .run(|| UdpSocket::bind((local, host_port(remote))));
    let socket = socket.expect("nobody else is bound there");
    socket.set_read_timeout(Some(SOON)).unwrap();
    if joined {
        socket.connect((remote, 7)).unwrap();
    }
    check_guest_gets_another(way, flow);
    let answer = packet::udp(&way.back(remote), (7, host_port(remote)), b"for the host");
    way.wire.send_bytes(answer);
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer);
    let length = length.unwrap_or_else(|error| panic!("{local} {flow:?}: {error}"));
    assert_eq!(&buffer[..length], b"for the host");
}

#[test]
fn a_guest_takes_no_port_of_a_datagram_socket_of_the_host() {
    for joined in [true, false] {
        for is_bound_to_one in [true, false] {
            let (world, _agent, guest, wire) = setup();
            let way = Way::new(&world, guest.nic(), &wire);
            for remote in [SILENT[0], SILENT[1]] {
                let is_v4 = remote.is_ipv4();
                let local = if is_bound_to_one {
                    host_address(is_v4)
                } else {
                    any(is_v4)
                };
                check_datagrams((&world, &way), remote, local, joined);
            }
        }
    }
}

#[test]
fn a_port_of_no_socket_any_more_is_kept() {
    // A mapped port of the guest would keep the other port that it got first.
    let (world, _agent, guest, wire) = setup_as("[nat]\neim_ports = 0\n");
    let way = Way::new(&world, guest.nic(), &wire);
    for remote in [SILENT[0], SILENT[1]] {
        check_datagrams((&world, &way), remote, any(remote.is_ipv4()), false);
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            // A flow keeps the port that it got: each try is another flow.
            let mut far_ports = 8..;
            wait_until("the port is free", SOON, || {
                let flow = FlowTo {
                    protocol,
                    remote,
                    ports: (host_port(remote), far_ports.next().unwrap_or(8)),
                };
                way.check(flow) == flow.ports.0
            });
        }
    }
}

#[test]
fn a_guest_takes_no_port_of_a_connection_of_the_host() {
    let (world, _agent, guest, wire) = setup();
    let way = Way::new(&world, guest.nic(), &wire);
    for remote in servers() {
        let _server = Server::tcp(&world.outside, remote);
        let local = SocketAddr::new(host_address(remote.is_ipv4()), host_port(remote));
        let mut stream = connect_from(&world.host, local, SocketAddr::new(remote, PORT));
        let flow = FlowTo {
            protocol: Protocol::Tcp,
            remote,
            ports: (host_port(remote), PORT),
        };
        let nat_port = way.send(flow, Frame::plain, b"the guest's");
        assert_ne!(nat_port, flow.ports.0, "{flow:?}: it is the host's");
        stream.write_all(b"the host's").unwrap();
        let mut echo = [0; 10];
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"the host's", "{remote}");
    }
}

#[test]
fn a_guest_takes_no_port_that_the_host_listens_on() {
    /// Of the client that both the guest and the host's listener know.
    const CLIENT_PORT: u16 = 7_777;
    let (world, _agent, guest, wire) = setup();
    let way = Way::new(&world, guest.nic(), &wire);
    for remote in servers() {
        for is_bound_to_one in [true, false] {
            let host = host_address(remote.is_ipv4());
            let local = if is_bound_to_one {
                host
            } else {
                any(remote.is_ipv4())
            };
            // The second listener finds connections of the first in TIME_WAIT, elsewhere.
            let port = host_port(remote) + u16::from(is_bound_to_one);
            let listener = world.host.run(|| TcpListener::bind((local, port))).unwrap();
            listener.set_nonblocking(true).unwrap();
            let client = SocketAddr::new(remote, CLIENT_PORT - u16::from(is_bound_to_one));
            let flow = FlowTo {
                protocol: Protocol::Tcp,
                remote,
                ports: (port, client.port()),
            };
            let nat_port = way.send(flow, Frame::plain, b"the guest's");
            assert_ne!(nat_port, port, "{flow:?}: it is the host's");
            let stream = connect_from(&world.outside, client, SocketAddr::new(host, port));
            let accepted = wait_for("the host accepts", SOON, || listener.accept().ok());
            assert_eq!(accepted.1, client);
            drop(stream);
        }
    }
}
