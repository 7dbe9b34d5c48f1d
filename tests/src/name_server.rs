//! A name server of the world, and questions to one, without a resolver's code.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::deadline::SOON;
use crate::netns::NetNs;
use crate::server::bound;
use crate::server::is_ready;

/// Port of DNS.
pub const PORT: u16 = 53;

/// Longest message over TCP.
const MESSAGE_MAX: usize = 65_535;

/// A name of this beginning gets an answer that no datagram holds.
const LARGE: &str = "large.";

/// A query that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The name, in the case it came in.
    pub name: String,
    /// Whether it came over TCP.
    pub is_tcp: bool,
    /// Who asked.
    pub peer: IpAddr,
}

/// A name server for every name: the address of each is the one it was made with.
#[derive(Debug)]
pub struct NameServer {
    queries: Arc<Mutex<Vec<Query>>>,
    stop: Option<io::PipeWriter>,
    threads: Vec<JoinHandle<()>>,
}

impl NameServer {
    /// Serves UDP and TCP at an address and port of a namespace.
    ///
    /// # Panics
    /// When the address is not the namespace's.
    #[must_use]
    pub fn start(netns: &NetNs, place: impl Into<SocketAddr>, answer: Ipv4Addr) -> Self {
        let place = place.into();
        let socket = bound(|| netns.run(|| UdpSocket::bind(place)));
        let listener = bound(|| netns.run(|| TcpListener::bind(place)));
        let (reader, writer) = io::pipe().expect("two descriptors");
        let stop = Arc::new(OwnedFd::from(reader));
        let queries = Arc::new(Mutex::new(Vec::new()));
        let udp = {
            let (stop, queries) = (Arc::clone(&stop), Arc::clone(&queries));
            thread::spawn(move || serve_udp(&socket, stop.as_fd(), (&queries, answer)))
        };
        let tcp = {
            let queries = Arc::clone(&queries);
            thread::spawn(move || serve_tcp(&listener, stop.as_fd(), (&queries, answer)))
        };
        Self {
            queries,
            stop: Some(writer),
            threads: vec![udp, tcp],
        }
    }

    /// What was asked, in order.
    ///
    /// # Panics
    /// When the server did.
    #[must_use]
    pub fn queries(&self) -> Vec<Query> {
        self.queries.lock().expect("no holder panics").clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a name server panicked");
            }
        }
    }
}

type Book<'a> = (&'a Mutex<Vec<Query>>, Ipv4Addr);

fn note((queries, _): Book<'_>, query: Query) {
    queries.lock().expect("no holder panics").push(query);
}

fn serve_udp(socket: &UdpSocket, stop: BorrowedFd<'_>, book: Book<'_>) {
    let mut buffer = vec![0; MESSAGE_MAX];
    while is_ready(socket.as_fd(), stop) {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let Some((name, reply)) = reply_to(&buffer[..length], false, book.1) else {
            continue;
        };
        let peer_ip = peer.ip();
        note(
            book,
            Query {
                name,
                is_tcp: false,
                peer: peer_ip,
            },
        );
        if let Err(error) = socket.send_to(&reply, peer) {
            eprintln!("name server to {peer}: {error}");
        }
    }
}

fn serve_tcp(listener: &TcpListener, stop: BorrowedFd<'_>, book: Book<'_>) {
    while is_ready(listener.as_fd(), stop) {
        let (stream, peer) = listener.accept().expect("poll said that there is one");
        if let Err(error) = serve_stream(stream, peer.ip(), book) {
            eprintln!("name server to {peer}: {error}");
        }
    }
}

/// Answers questions until the other side closes.
fn serve_stream(mut stream: TcpStream, peer: IpAddr, book: Book<'_>) -> io::Result<()> {
    stream.set_read_timeout(Some(SOON))?;
    while let Ok(query) = read_message(&mut stream) {
        let Some((name, reply)) = reply_to(&query, true, book.1) else {
            return Ok(());
        };
        note(
            book,
            Query {
                name,
                is_tcp: true,
                peer,
            },
        );
        write_message(&mut stream, &reply)?;
    }
    Ok(())
}

/// Reads a message with its length before it.
///
/// # Errors
/// Where none comes whole.
pub fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// Writes a message with its length before it.
///
/// # Errors
/// Where the other side takes it not.
///
/// # Panics
/// Where it is too long.
pub fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).expect("a message fits its length");
    stream.write_all(&[&length.to_be_bytes(), message].concat())
}

/// A question for the address of a name.
#[must_use]
pub fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = Vec::from(id.to_be_bytes());
    // Recursion desired; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).expect("a short label"));
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// Name of the question of a message, in the case it came in.
#[must_use]
pub fn name_of(message: &[u8]) -> Option<String> {
    read_name(message).map(|(name, _)| name)
}

/// Name of the question and the offset of its end.
#[must_use]
pub fn read_name(message: &[u8]) -> Option<(String, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*message.get(at)?);
        if length == 0 {
            return Some((labels.join("."), at + 5));
        }
        labels.push(String::from_utf8_lossy(message.get(at + 1..at + 1 + length)?).into_owned());
        at += 1 + length;
    }
}

/// The reply to a query: one address, or for a large name as many as 1,000 bytes do not hold, and over UDP the
/// truncated rest of that.
fn reply_to(query: &[u8], is_tcp: bool, address: Ipv4Addr) -> Option<(String, Vec<u8>)> {
    let (name, end) = read_name(query)?;
    let is_large = name.to_lowercase().starts_with(LARGE);
    let count: u16 = match (is_large, is_tcp) {
        (false, _) => 1,
        (true, true) => 200,
        (true, false) => 0,
    };
    let mut reply = Vec::from(query.get(..2)?);
    reply.extend([0x81 | u8::from(count == 0) << 1, 0x80, 0, 1]);
    reply.extend(count.to_be_bytes());
    reply.extend([0, 0, 0, 0]);
    reply.extend(query.get(12..end)?);
    for _ in 0..count {
        // A time to live of 0: no resolver keeps it, so every query comes here.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        reply.extend(address.octets());
    }
    Some((name, reply))
}

/// What a name server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Response code: 0 is no error, 2 a failure of the server.
    pub code: u8,
    /// Whether it did not fit.
    pub is_truncated: bool,
    /// Number of answers.
    pub answers: u16,
    /// The last four bytes of the message: the address of the last answer, where there is one.
    pub last: [u8; 4],
}

/// Reads the reply to a question with this id.
///
/// # Panics
/// Where it is none.
#[must_use]
pub fn read_reply(id: u16, name: &str, reply: &[u8]) -> Reply {
    assert_eq!(reply[..2], id.to_be_bytes(), "the id of the question");
    assert_eq!(reply[2] & 0x80, 0x80, "a reply");
    if let Some((answered, _)) = read_name(reply) {
        assert_eq!(answered, name);
    }
    Reply {
        code: reply[3] & 15,
        is_truncated: reply[2] & 2 != 0,
        answers: u16::from_be_bytes([reply[6], reply[7]]),
        last: *reply.last_chunk().expect("more than a header"),
    }
}

/// Asks a server over UDP from a namespace.
///
/// # Errors
/// Where nobody answers soon.
///
/// # Panics
/// Where the answer is none.
pub fn ask_udp(netns: &NetNs, server: impl Into<SocketAddr>, name: &str) -> io::Result<Reply> {
    let server = server.into();
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = netns.run(|| UdpSocket::bind(any))?;
    socket.set_read_timeout(Some(SOON))?;
    socket.connect(server)?;
    socket.send(&question(0x1234, name))?;
    let mut buffer = vec![0; MESSAGE_MAX];
    let length = socket.recv(&mut buffer)?;
    Ok(read_reply(0x1234, name, &buffer[..length]))
}

/// Asks a server over TCP from a namespace, several names on one connection.
///
/// # Errors
/// Where nobody answers soon.
///
/// # Panics
/// Where an answer is none.
pub fn ask_tcp(
    netns: &NetNs,
    server: impl Into<SocketAddr>,
    names: &[&str],
) -> io::Result<Vec<Reply>> {
    let server = server.into();
    let mut stream = netns.run(|| TcpStream::connect_timeout(&server, SOON))?;
    stream.set_read_timeout(Some(SOON))?;
    for (id, name) in (1..).zip(names) {
        write_message(&mut stream, &question(id, name))?;
    }
    let read = |(id, name): (u16, &&str)| Ok(read_reply(id, name, &read_message(&mut stream)?));
    (1..).zip(names).map(read).collect()
}
