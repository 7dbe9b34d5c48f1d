//! A name server of the world that says what a test lets it say, wrong things too.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::deadline::SOON;
use crate::name_server::{name_of, read_message, write_message};
use crate::netns::NetNs;
use crate::server::{bound, is_ready};

/// A server by UDP and TCP, on threads of its own.
#[derive(Debug)]
pub struct Upstream {
    queries: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Option<io::PipeWriter>,
    threads: Vec<JoinHandle<()>>,
}

/// What is said to a query for a name, which is lower case.
pub trait Say: Fn(&str, &[u8]) -> Vec<Vec<u8>> + Clone + Send + 'static {}

impl<T: Fn(&str, &[u8]) -> Vec<Vec<u8>> + Clone + Send + 'static> Say for T {}

/// Where queries are noted, and what is said to them.
#[derive(Clone)]
struct Desk<S> {
    queries: Arc<Mutex<Vec<Vec<u8>>>>,
    say: S,
}

impl<S: Say> Desk<S> {
    fn replies(&self, query: &[u8]) -> Vec<Vec<u8>> {
        let name = name_of(query).unwrap_or_default().to_lowercase();
        let mut queries = self.queries.lock().expect("no holder panics");
        queries.push(query.to_vec());
        drop(queries);
        (self.say)(&name, query)
    }

    fn serve_udp(&self, socket: &UdpSocket, stop: BorrowedFd<'_>) {
        let mut buffer = vec![0; 65_535];
        while is_ready(socket.as_fd(), stop) {
            let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            for reply in self.replies(&buffer[..length]) {
                if let Err(error) = socket.send_to(&reply, peer) {
                    eprintln!("name server to {peer}: {error}");
                }
            }
        }
    }

    fn serve_tcp(&self, listener: &TcpListener, stop: BorrowedFd<'_>) {
        let mut connections = Vec::new();
        while is_ready(listener.as_fd(), stop) {
            let Ok((stream, _)) = listener.accept() else {
                continue;
            };
            let desk = self.clone();
            connections.push(thread::spawn(move || desk.serve_stream(stream)));
        }
        for connection in connections {
            drop(connection.join());
        }
    }

    /// Until the other side ends it: what it does not take is not this server's trouble.
    fn serve_stream(&self, mut stream: TcpStream) {
        if stream.set_read_timeout(Some(SOON)).is_err() {
            return;
        }
        while let Ok(query) = read_message(&mut stream) {
            for reply in self.replies(&query) {
                if write_message(&mut stream, &reply).is_err() {
                    return;
                }
            }
        }
    }
}

impl Upstream {
    /// Serves at an address and port of a namespace.
    ///
    /// # Panics
    /// When the address is not the namespace's.
    #[must_use]
    pub fn start(netns: &NetNs, place: impl Into<SocketAddr>, say: impl Say) -> Self {
        let place = place.into();
        let socket = bound(|| netns.run(|| UdpSocket::bind(place)));
        let listener = bound(|| netns.run(|| TcpListener::bind(place)));
        let (reader, writer) = io::pipe().expect("two descriptors");
        let stop = Arc::new(OwnedFd::from(reader));
        let queries = Arc::new(Mutex::new(Vec::new()));
        let desk = Desk {
            queries: Arc::clone(&queries),
            say,
        };
        let (other, until) = (desk.clone(), Arc::clone(&stop));
        let by_udp = thread::spawn(move || desk.serve_udp(&socket, stop.as_fd()));
        let by_tcp = thread::spawn(move || other.serve_tcp(&listener, until.as_fd()));
        Self {
            queries,
            stop: Some(writer),
            threads: vec![by_udp, by_tcp],
        }
    }

    /// What was asked, in order.
    ///
    /// # Panics
    /// When the server did.
    #[must_use]
    pub fn queries(&self) -> Vec<Vec<u8>> {
        self.queries.lock().expect("no holder panics").clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a name server panicked");
            }
        }
    }
}

/// Type of the question of a query.
#[must_use]
pub fn kind_of(query: &[u8]) -> Option<u16> {
    let end = question_end(query)?;
    Some(u16::from_be_bytes([
        *query.get(end - 4)?,
        *query.get(end - 3)?,
    ]))
}

fn question_end(query: &[u8]) -> Option<usize> {
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at + 4);
        }
    }
}

/// The answer to a query with these addresses, those of the family that is asked for.
///
/// # Panics
/// Where the query is none.
#[must_use]
pub fn answer(query: &[u8], addresses: &[IpAddr], ttl: u32) -> Vec<u8> {
    let end = question_end(query).expect("a query");
    let kind = kind_of(query).expect("a query");
    let fitting: Vec<&IpAddr> = addresses
        .iter()
        .filter(|address| kind == if address.is_ipv4() { 1 } else { 28 })
        .collect();
    let count = u16::try_from(fitting.len()).expect("a few");
    let mut message = Vec::from(&query[..2]);
    message.extend([0x81, 0x80, 0, 1]);
    message.extend(count.to_be_bytes());
    message.extend([0, 0, 0, 0]);
    message.extend(&query[12..end]);
    for address in fitting {
        message.extend([0xc0, 12]);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message.extend(ttl.to_be_bytes());
        match address {
            IpAddr::V4(address) => {
                message.extend([0, 4]);
                message.extend(address.octets());
            }
            IpAddr::V6(address) => {
                message.extend([0, 16]);
                message.extend(address.octets());
            }
        }
    }
    message
}
