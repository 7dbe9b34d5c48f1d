//! Requests and responses between a guest and the world, one at a time. One thread asks and answers, and never sleeps,
//! nor does the VMM: no time of a wake-up, which differs more than the ways do, is in what is measured.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};

use super::PROGRAM_CORE;
use super::host::Host;
use crate::figures::Figures;
use crate::path::pin_to;
use netagent_tests::deadline::{Deadline, SOON, now, wait_for};
use netagent_tests::world::{SERVERS, server_v4};

/// Length of a request and of a response.
const LENGTH: usize = 64;
/// Port of the server.
const PORT: u16 = 7_000;
/// Looks between two looks at the clock.
const LOOKS: u32 = 1 << 16;

/// Something with two ends, neither of which waits.
trait Ends {
    fn ask(&self, message: &[u8]) -> io::Result<usize>;
    fn hear(&self, message: &mut [u8]) -> io::Result<usize>;
    fn answer(&self, message: &[u8]) -> io::Result<usize>;
    fn take(&self, message: &mut [u8]) -> io::Result<usize>;
}

struct Datagrams {
    client: UdpSocket,
    server: UdpSocket,
}

struct Streams {
    client: TcpStream,
    server: TcpStream,
}

impl Ends for Datagrams {
    fn ask(&self, message: &[u8]) -> io::Result<usize> {
        self.client.send(message)
    }
    fn hear(&self, message: &mut [u8]) -> io::Result<usize> {
        self.server.recv(message)
    }
    fn answer(&self, message: &[u8]) -> io::Result<usize> {
        self.server.send(message)
    }
    fn take(&self, message: &mut [u8]) -> io::Result<usize> {
        self.client.recv(message)
    }
}

impl Ends for Streams {
    fn ask(&self, message: &[u8]) -> io::Result<usize> {
        (&self.client).write(message)
    }
    fn hear(&self, message: &mut [u8]) -> io::Result<usize> {
        (&self.server).read(message)
    }
    fn answer(&self, message: &[u8]) -> io::Result<usize> {
        (&self.server).write(message)
    }
    fn take(&self, message: &mut [u8]) -> io::Result<usize> {
        (&self.client).read(message)
    }
}

/// Microseconds of each of `count` exchanges by UDP.
///
/// # Panics
/// Where one is not answered as it should be.
#[must_use]
pub fn by_udp(host: &Host, count: u32) -> Figures {
    let (guest, world) = (&host.guest.netns, &host.world.outside);
    let address = host.server(0, PORT);
    let server = world.run(|| UdpSocket::bind(address));
    let server = server.expect("the world has this address");
    let client = guest.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
    let client = client.expect("a port");
    client.connect(address).expect("the guest has a route");
    client.send(b"open").expect("the guest has a route");
    server.set_read_timeout(Some(SOON)).expect("not zero");
    let (_, peer) = server
        .recv_from(&mut [0; LENGTH])
        .expect("the guest opened");
    assert_eq!(peer.ip(), host.seen_as(), "{}: source", host.way.name());
    server.connect(peer).expect("the world has a route");
    for end in [&client, &server] {
        end.set_nonblocking(true).expect("an open socket");
    }
    exchanges(&Datagrams { client, server }, count)
}

/// The same by TCP, on one connection.
///
/// # Panics
/// Where one is not answered as it should be.
#[must_use]
pub fn by_tcp(host: &Host, count: u32) -> Figures {
    let (guest, world) = (&host.guest.netns, &host.world.outside);
    let address = host.server(0, PORT);
    let listener = world.run(|| TcpListener::bind(address));
    let listener = listener.expect("the world has this address");
    listener.set_nonblocking(true).expect("an open socket");
    let client = guest.run(|| TcpStream::connect_timeout(&address, SOON));
    let client = client.expect("the server listens");
    let (server, peer) = wait_for("the client is there", SOON, || listener.accept().ok());
    assert_eq!(peer.ip(), host.seen_as(), "{}: source", host.way.name());
    for end in [&client, &server] {
        end.set_nonblocking(true).expect("an open socket");
        end.set_nodelay(true).expect("an open socket");
    }
    exchanges(&Streams { client, server }, count)
}

fn exchanges(ends: &(impl Ends + Sync), count: u32) -> Figures {
    let run = || {
        pin_to(PROGRAM_CORE);
        let warm_up = count / 10;
        let mut figures = Figures::default();
        for number in 0..warm_up + count {
            let started = now();
            exchange(ends, number);
            if number >= warm_up {
                figures.add(started.elapsed().as_secs_f64() * 1e6);
            }
        }
        figures
    };
    std::thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn exchange(ends: &impl Ends, number: u32) {
    let mut request = [0x5a; LENGTH];
    request[..4].copy_from_slice(&number.to_be_bytes());
    let response = request.map(|byte| !byte);
    let mut buffer = [0; LENGTH];
    spin(|| ends.ask(&request));
    // Of a stream, a whole message: both are one segment.
    let heard = spin(|| ends.hear(&mut buffer));
    assert!(heard == LENGTH && buffer == request, "a request");
    spin(|| ends.answer(&response));
    let taken = spin(|| ends.take(&mut buffer));
    assert!(taken == LENGTH && buffer == response, "a response");
}

/// Tries until it need not wait.
fn spin<T>(mut work: impl FnMut() -> io::Result<T>) -> T {
    let deadline = Deadline::after(SOON);
    loop {
        for _ in 0..LOOKS {
            match work() {
                Ok(value) => return value,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("an exchange: {error}"),
            }
        }
        assert!(deadline.remaining().is_some(), "an exchange got lost");
    }
}

/// Connections that were opened, asked one byte, answered one and closed, in a second; measured over `count` of them.
///
/// # Panics
/// Where one fails.
#[must_use]
pub fn connections(host: &Host, count: u32) -> f64 {
    let (guest, world) = (&host.guest.netns, &host.world.outside);
    let listener = world.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)));
    let listener = listener.expect("the port is free");
    listener.set_nonblocking(true).expect("an open socket");
    let took: Duration = guest.run(|| {
        pin_to(PROGRAM_CORE);
        let started = now();
        for number in 0..count {
            let server = server_v4((number % u32::from(SERVERS)) as u8);
            connection(&listener, server);
        }
        started.elapsed()
    });
    f64::from(count) / took.as_secs_f64()
}

fn connection(listener: &TcpListener, server: Ipv4Addr) {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let client: OwnedFd =
        socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a descriptor");
    let [a, b, c, d] = server.octets();
    match connect(client.as_raw_fd(), &SockaddrIn::new(a, b, c, d, PORT)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => panic!("connect to {server}: {error}"),
    }
    let client = TcpStream::from(client);
    let (accepted, peer) = spin(|| listener.accept());
    assert!(matches!(peer, SocketAddr::V4(_)), "an IPv4 client");
    accepted.set_nonblocking(true).expect("an open socket");
    let (mut request, mut response) = ([0], [0]);
    spin(|| (&client).write(b"?"));
    spin(|| (&accepted).read(&mut request));
    spin(|| (&accepted).write(b"!"));
    spin(|| (&client).read(&mut response));
    assert_eq!((request, response), (*b"?", *b"!"), "one byte each way");
}
