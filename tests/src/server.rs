//! Servers of the world: echo over TCP and UDP, and a page over HTTP, on threads that end with the server.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::deadline::wait_for;
use crate::netns::NetNs;

/// Port of both servers.
pub const PORT: u16 = 7;

/// Time after which a connection that says nothing is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(20);

/// As long as the socket of an earlier server may hold its address: a process that another test is just starting has a
/// copy of every descriptor until it runs its own program.
const TAKEN_LIMIT: Duration = Duration::from_secs(5);

/// A server, on a thread of its own.
#[derive(Debug)]
pub struct Server {
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

/// A socket with an address that an earlier one may have had until now, or that the namespace was given a moment ago: until
/// the kernel's worker came by, an IPv6 address is tentative, also where it is not looked for on the link.
///
/// # Panics
/// When the address is not the namespace's, or stays taken.
pub fn bound<S>(mut bind: impl FnMut() -> io::Result<S>) -> S {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable};
    let what = "the namespace has the address, and it is free";
    wait_for(what, TAKEN_LIMIT, || match bind() {
        Ok(socket) => Some(socket),
        Err(error) if [AddrInUse, AddrNotAvailable].contains(&error.kind()) => None,
        Err(error) => panic!("the address can be bound: {error}"),
    })
}

impl Server {
    /// Serves TCP on port 7 of an address.
    ///
    /// # Panics
    /// When the address is not the namespace's.
    #[must_use]
    pub fn tcp(netns: &NetNs, address: impl Into<IpAddr>) -> Self {
        let address = SocketAddr::new(address.into(), PORT);
        let listener = bound(|| netns.run(|| TcpListener::bind(address)));
        Self::serve(move |stop, peers| {
            let mut connections = Vec::new();
            while is_ready(listener.as_fd(), stop) {
                let (stream, peer) = listener.accept().expect("poll said that there is one");
                peers.lock().expect("no holder panics").push(peer);
                connections.push(thread::spawn(move || echo_stream(stream)));
            }
            connections
                .into_iter()
                .for_each(|connection| drop(connection.join()));
        })
    }

    /// Serves one page over HTTP on port 80 of an address.
    ///
    /// # Panics
    /// When the address is not the namespace's.
    #[must_use]
    pub fn page(netns: &NetNs, address: impl Into<IpAddr>, page: &'static str) -> Self {
        let address = SocketAddr::new(address.into(), 80);
        let listener = bound(|| netns.run(|| TcpListener::bind(address)));
        Self::serve(move |stop, peers| {
            while is_ready(listener.as_fd(), stop) {
                let (stream, peer) = listener.accept().expect("poll said that there is one");
                peers.lock().expect("no holder panics").push(peer);
                serve_page(stream, page);
            }
        })
    }

    /// Serves UDP on port 7 of an address.
    ///
    /// # Panics
    /// When the address is not the namespace's.
    #[must_use]
    pub fn udp(netns: &NetNs, address: impl Into<IpAddr>) -> Self {
        let address = SocketAddr::new(address.into(), PORT);
        let socket = bound(|| netns.run(|| UdpSocket::bind(address)));
        Self::serve(move |stop, peers| {
            let mut buffer = vec![0; 65_536];
            while is_ready(socket.as_fd(), stop) {
                // An ICMP error about an earlier answer is reported here; the next datagram comes all the same.
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                peers.lock().expect("no holder panics").push(peer);
                if let Err(error) = socket.send_to(&buffer[..length], peer) {
                    eprintln!("echo to {peer}: {error}");
                }
            }
        })
    }

    fn serve(work: impl FnOnce(BorrowedFd<'_>, &Mutex<Vec<SocketAddr>>) + Send + 'static) -> Self {
        let (reader, writer) = io::pipe().expect("two descriptors");
        let peers = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&peers);
        let thread = thread::spawn(move || {
            let reader = OwnedFd::from(reader);
            work(reader.as_fd(), &seen);
        });
        Self {
            peers,
            stop: Some(writer),
            thread: Some(thread),
        }
    }

    /// Who connected or sent, in order.
    ///
    /// # Panics
    /// When the server did.
    #[must_use]
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.peers.lock().expect("no holder panics").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            eprintln!("an echo server panicked");
        }
    }
}

/// Waits until `descriptor` can be read; false when `stop` was closed.
///
/// # Panics
/// When poll(2) fails.
#[must_use]
pub fn is_ready(descriptor: BorrowedFd<'_>, stop: BorrowedFd<'_>) -> bool {
    let mut descriptors = [
        PollFd::new(descriptor, PollFlags::POLLIN),
        PollFd::new(stop, PollFlags::POLLIN),
    ];
    poll(&mut descriptors, PollTimeout::NONE).expect("poll of two descriptors");
    !descriptors[1].any().unwrap_or(true)
}

/// Answers one request, whatever it asks for.
fn serve_page(mut stream: TcpStream, page: &str) {
    stream
        .set_read_timeout(Some(IDLE_LIMIT))
        .expect("an open socket");
    let mut request = Vec::<u8>::new();
    let mut buffer = [0; 1_024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(length @ 1..) => request.extend(&buffer[..length]),
            Ok(0) | Err(_) => return,
        }
    }
    let length = page.len();
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n");
    if let Err(error) = stream.write_all([head.as_str(), page].concat().as_bytes()) {
        eprintln!("page: {error}");
    }
}

/// Sends back what comes until the other side has finished.
fn echo_stream(mut stream: TcpStream) {
    let mut buffer = vec![0; 1 << 16];
    stream
        .set_read_timeout(Some(IDLE_LIMIT))
        .expect("an open socket");
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
