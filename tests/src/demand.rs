//! Traffic between a guest and the world that asks for more than a limit allows, and how much of it arrives.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{Linger, RcvBufForce, TcpCongestion, UdpGsoSegment};

use crate::deadline::{SOON, now, wait_until};
use crate::netns::NetNs;

/// Payload of a datagram that fills an Ethernet frame by IPv6: in pieces, less would arrive than passes.
const DATAGRAM: usize = 1_452;
/// Datagrams in one call, where there are many.
const DATAGRAMS_AT_ONCE: usize = 16;
/// How long a thread is stuck in a call when everything is over.
const STEP: Duration = Duration::from_millis(50);
/// Time between two looks of the sender of datagrams at what is due.
const PACE: Duration = Duration::from_millis(1);

/// Who wants what.
#[derive(Clone, Copy, Debug)]
pub enum Demand {
    /// So many bits of payload a second, by UDP.
    Udp(u64),
    /// As much as so many TCP connections take, which control congestion so.
    Tcp(usize, &'static str),
}

/// The ends.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// Where the guest's programs run.
    pub guest: &'a NetNs,
    /// Where the server runs.
    pub world: &'a NetNs,
    /// The server's address.
    pub server: IpAddr,
    /// Whether the guest sends.
    pub is_upload: bool,
}

/// Bits of payload that arrived in each second.
#[must_use]
pub fn arriving(ends: Ends<'_>, demand: Demand, time: Duration) -> f64 {
    let (senders, receivers) = match demand {
        Demand::Udp(_) => by_udp(ends),
        Demand::Tcp(count, congestion) => by_tcp(ends, (count, congestion)),
    };
    let (received, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for mut receiver in receivers {
            let (received, is_over) = (&received, &is_over);
            scope.spawn(move || receive(&mut receiver, received, is_over));
        }
        let started = now();
        for mut sender in senders {
            let is_over = &is_over;
            scope.spawn(move || match demand {
                Demand::Udp(rate) => send_paced(&mut sender, rate, is_over),
                Demand::Tcp(..) => send(&mut sender, is_over),
            });
        }
        wait_until("the time is over", 2 * time, || started.elapsed() >= time);
        let bytes = received.load(Ordering::Relaxed);
        let rate = bytes as f64 * 8.0 / started.elapsed().as_secs_f64();
        is_over.store(true, Ordering::Relaxed);
        rate
    })
}

enum Socket {
    Stream(TcpStream),
    Datagrams(UdpSocket),
}

type Sockets = Vec<Socket>;

fn by_tcp(ends: Ends<'_>, (count, congestion): (usize, &str)) -> (Sockets, Sockets) {
    let listener = ends.world.run(|| TcpListener::bind((ends.server, 0)));
    let listener = listener.expect("the world has this address");
    let address = listener.local_addr().expect("it is bound");
    let pair = |_| {
        let client = ends
            .guest
            .run(|| TcpStream::connect_timeout(&address, SOON));
        let client = client.expect("the server listens");
        let (server, _) = listener.accept().expect("the client is there");
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(STEP)).expect("an open socket");
            stream
                .set_write_timeout(Some(STEP))
                .expect("an open socket");
            setsockopt(stream, TcpCongestion, &congestion.into()).expect("the kernel has it");
            // What was not sent when all is over is not sent at all.
            let at_once = nix::libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(stream, Linger, &at_once).expect("an open socket");
        }
        let (client, server) = (Socket::Stream(client), Socket::Stream(server));
        if ends.is_upload {
            (client, server)
        } else {
            (server, client)
        }
    };
    (0..count).map(pair).unzip()
}

fn by_udp(ends: Ends<'_>) -> (Sockets, Sockets) {
    let server = ends.world.run(|| UdpSocket::bind((ends.server, 0)));
    let server = server.expect("the world has this address");
    let any: SocketAddr = if ends.server.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let client = ends.guest.run(|| UdpSocket::bind(any)).expect("a port");
    let address = server.local_addr().expect("it is bound");
    client.connect(address).expect("the guest has a route");
    client.send(b"open").expect("the guest has a route");
    server.set_read_timeout(Some(SOON)).expect("an open socket");
    let (_, peer) = server.recv_from(&mut [0; 8]).expect("the guest opened");
    server.connect(peer).expect("the world has a route");
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(STEP)).expect("an open socket");
        setsockopt(socket, RcvBufForce, &(8 << 20)).expect("root may");
    }
    let (client, server) = (Socket::Datagrams(client), Socket::Datagrams(server));
    let (sender, receiver) = if ends.is_upload {
        (client, server)
    } else {
        (server, client)
    };
    (vec![sender], vec![receiver])
}

fn receive(socket: &mut Socket, received: &AtomicU64, is_over: &AtomicBool) {
    let mut buffer = vec![0; 1 << 17];
    while !is_over.load(Ordering::Relaxed) {
        let read = match socket {
            Socket::Stream(stream) => stream.read(&mut buffer),
            Socket::Datagrams(socket) => socket.recv(&mut buffer),
        };
        match read {
            Ok(0) => return,
            Ok(length) => drop(received.fetch_add(length as u64, Ordering::Relaxed)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // The other end has seen already that all is over.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => {
                eprintln!("receive: {error}");
                return;
            }
        }
    }
}

fn send(socket: &mut Socket, is_over: &AtomicBool) {
    let buffer = vec![0x5a; 1 << 17];
    let Socket::Stream(stream) = socket else {
        return;
    };
    while !is_over.load(Ordering::Relaxed) {
        match stream.write(&buffer) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => {
                eprintln!("send: {error}");
                return;
            }
        }
    }
}

fn send_paced(socket: &mut Socket, rate: u64, is_over: &AtomicBool) {
    let Socket::Datagrams(socket) = socket else {
        return;
    };
    let at_once = if rate >= 100_000_000 {
        setsockopt(socket, UdpGsoSegment, &(DATAGRAM as i32)).expect("Linux 4.18 has it");
        DATAGRAMS_AT_ONCE * DATAGRAM
    } else {
        DATAGRAM
    };
    let buffer = vec![0x5a; at_once];
    let (started, mut sent) = (now(), 0_u64);
    while !is_over.load(Ordering::Relaxed) {
        let due = started.elapsed().as_secs_f64() * rate as f64 / 8.0;
        while (sent as f64) < due {
            // What the guest's own interface has no room for is lost demand.
            if let Err(error) = socket.send(&buffer)
                && !matches!(error.raw_os_error(), Some(nix::libc::ENOBUFS))
            {
                eprintln!("send: {error}");
                return;
            }
            sent += at_once as u64;
        }
        thread::park_timeout(PACE);
    }
}
