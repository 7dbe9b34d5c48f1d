use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::config::dns::Dns;
use crate::spec::domain::Domain;

mod hostile;
mod kept;
mod names;
mod refused;
mod tcp;
mod udp;

/// Whatever is waited for comes before then.
const DEADLINE: Duration = Duration::from_secs(20);
/// Times that end while a test waits.
const SHORT: Times = Times {
    patience: Duration::from_millis(100),
    attempt: Duration::from_millis(500),
    whole: Duration::from_secs(3),
    idle: Duration::from_millis(400),
    life: Duration::from_secs(20),
};
/// Times that do not, so that what is slow is no failure.
const LONG: Times = Times {
    patience: Duration::from_secs(20),
    attempt: Duration::from_secs(20),
    whole: Duration::from_secs(40),
    idle: Duration::from_secs(40),
    life: Duration::from_secs(60),
};
/// Nobody of the directory.
const STRANGER: [u8; 4] = [127, 0, 0, 66];
const GUEST: [u8; 4] = [127, 0, 0, 7];
const OTHER: [u8; 4] = [127, 0, 0, 8];
/// A guest that may ask for nothing.
const CLOSED: [u8; 4] = [127, 0, 0, 9];

/// Guests that may ask for `*.example`, and one whose list is only counted.
const LISTED: [u8; 4] = [127, 0, 0, 10];
const AUDITED: [u8; 4] = [127, 0, 0, 11];
/// What no guest reaches.
const FORBIDDEN: [u8; 4] = [169, 254, 169, 254];

/// Knows 127.0.0.N as the guest of instance N, and ::1 as that of instance 1.
#[derive(Default)]
struct Loopback {
    /// What guests may ask for, where it is not what their address says.
    changed: Mutex<BTreeMap<IpAddr, Permission>>,
    /// The name servers of their own.
    own: Mutex<BTreeMap<IpAddr, IpAddr>>,
    /// Those that were started again.
    again: Mutex<BTreeSet<IpAddr>>,
}

impl Directory for Loopback {
    fn client(&self, address: IpAddr) -> Option<Asker> {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(_) => [0, 0, 0, 1],
        };
        let names = || Arc::new([Domain::parse("*.example").unwrap()].into_iter().collect());
        let permission = match octets {
            STRANGER => return None,
            CLOSED => Permission::None,
            LISTED => Permission::Listed(names()),
            AUDITED => Permission::Audited(names()),
            _ => Permission::All,
        };
        let changed = self.changed.lock().unwrap().get(&address).cloned();
        let mut start = start(octets);
        start.generation += u32::from(self.again.lock().unwrap().contains(&address));
        Some(Asker {
            start,
            upstream: self.own.lock().unwrap().get(&address).copied(),
            permission: changed.unwrap_or(permission),
            mtu: 1_500,
        })
    }

    fn is_forbidden(&self, _: &Asker, address: IpAddr) -> bool {
        address == IpAddr::from(FORBIDDEN)
    }
}

fn start(guest: [u8; 4]) -> Start {
    Start {
        instance: guest[3].into(),
        generation: 1,
    }
}

/// What was learned, and a learner that has no room.
#[derive(Default)]
struct Book {
    learned: Mutex<Vec<(Start, String, IpAddr, u64)>>,
    is_full: AtomicBool,
}

impl Learner for Book {
    fn learn(&self, start: Start, name: &str, addresses: &[(IpAddr, Duration)]) -> io::Result<()> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut learned = self.learned.lock().unwrap();
        for (address, ttl) in addresses {
            learned.push((start, name.to_owned(), *address, ttl.as_secs()));
        }
        Ok(())
    }
}

/// A resolver on loopback.
struct World {
    server: Server,
    directory: Arc<Loopback>,
    book: Arc<Book>,
    udp: SocketAddr,
    udp6: SocketAddr,
    tcp: SocketAddr,
}

impl World {
    async fn new(upstreams: &[SocketAddr], times: Times) -> Self {
        let upstreams = Upstreams::new(&Dns {
            upstream: upstreams.to_vec(),
        });
        Self::with(upstreams, times).await
    }

    async fn with(upstreams: Upstreams, times: Times) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let udp6 = UdpSocket::bind("[::1]:0").await.unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = |socket: &UdpSocket| socket.local_addr().unwrap();
        let (at, at6) = (address(&udp), address(&udp6));
        let tcp_at = tcp.local_addr().unwrap();
        let sockets = Sockets {
            udp: vec![udp, udp6],
            tcp: vec![tcp],
        };
        let directory = Arc::new(Loopback::default());
        let book = Arc::new(Book::default());
        let shared = Shared {
            directory: Arc::clone(&directory) as _,
            learner: Arc::clone(&book) as _,
            upstreams: Arc::new(upstreams),
            places: Arc::new(Places::new(ALL)),
            cache: Arc::new(Cache::new(cache::BOUNDS)),
            times,
        };
        Self {
            server: serve_with(sockets, shared),
            directory,
            book,
            udp: at,
            udp6: at6,
            tcp: tcp_at,
        }
    }

    /// On a host that names no resolver.
    async fn without_servers() -> Self {
        let nowhere = "/nonexistent/resolv.conf".into();
        Self::with(Upstreams::of_file(nowhere), LONG).await
    }

    async fn udp(&self, guest: [u8; 4]) -> UdpSocket {
        let socket = UdpSocket::bind((Ipv4Addr::from(guest), 0)).await.unwrap();
        socket.connect(self.udp).await.unwrap();
        socket
    }

    async fn tcp(&self, guest: [u8; 4]) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((guest, 0).into()).unwrap();
        within(socket.connect(self.tcp)).await.unwrap()
    }

    /// What was learned for a guest: names, addresses and how many seconds they are good.
    fn learned(&self, guest: [u8; 4]) -> Vec<(String, IpAddr, u64)> {
        let learned = self.book.learned.lock().unwrap();
        let of_guest = learned.iter().filter(|(of, ..)| *of == start(guest));
        of_guest
            .map(|(_, name, address, ttl)| (name.clone(), *address, *ttl))
            .collect()
    }

    /// From now on, a guest may ask for this.
    fn permit(&self, guest: [u8; 4], permission: Permission) {
        let mut changed = self.directory.changed.lock().unwrap();
        changed.insert(guest.into(), permission);
    }

    /// Asks by UDP and by TCP.
    async fn ask_both(&self, guest: [u8; 4], query: &[u8]) -> [Vec<u8>; 2] {
        let by_udp = ask(&self.udp(guest).await, query).await;
        let mut stream = self.tcp(guest).await;
        send_frame(&mut stream, query).await;
        [by_udp, receive_frame(&mut stream).await.unwrap()]
    }

    fn counters(&self, guest: [u8; 4]) -> Counters {
        self.server.counters(start(guest)).unwrap_or_default()
    }

    /// Waits until the counters of a guest fit.
    async fn wait_for(&self, guest: [u8; 4], fits: impl Fn(Counters) -> bool) {
        within(async {
            while !fits(self.counters(guest)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("it did not come")
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let len = within(socket.recv(&mut buffer)).await.unwrap();
    buffer.truncate(len);
    buffer
}

async fn ask(socket: &UdpSocket, query: &[u8]) -> Vec<u8> {
    socket.send(query).await.unwrap();
    receive(socket).await
}

/// A query for an address of `<label>.example`.
fn query(id: [u8; 2], label: &str) -> Vec<u8> {
    let mut bytes = vec![id[0], id[1], 1, 0x20, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.push(u8::try_from(label.len()).unwrap());
    bytes.extend_from_slice(label.as_bytes());
    bytes.extend_from_slice(b"\x07exAMPle\x00\x00\x01\x00\x01");
    bytes
}

/// The answer to a query as far as the resolver looks at it, with something behind it.
fn answer(query: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2] |= 0x80;
    bytes.extend_from_slice(rest);
    bytes
}

/// Whether a query asks for a name with this label first.
fn asks_for(query: &[u8], label: &str) -> bool {
    query[13..].starts_with(label.as_bytes())
}

fn code(answer: &[u8]) -> u8 {
    answer[3] & 0x0f
}

/// A server by UDP: every query is handled to give the answers, in order. Keeps what it was asked.
async fn fake_udp(
    at: &str,
    mut handle: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let socket = UdpSocket::bind(at).await.unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            seen.lock().unwrap().push(buffer[..len].to_vec());
            for answer in handle(&buffer[..len]) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    (address, asked)
}

/// A server by UDP and TCP at the same address: every query has one answer. Keeps what it was asked.
async fn fake_both(
    handle: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static,
) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let handle = Arc::new(Mutex::new(handle));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (seen, handle_tcp) = (Arc::clone(&asked), Arc::clone(&handle));
    let server = fake_tcp(move |mut stream| {
        let (seen, handle) = (Arc::clone(&seen), Arc::clone(&handle_tcp));
        async move {
            while let Some(query) = receive_frame(&mut stream).await {
                seen.lock().unwrap().push(query.clone());
                let answer = handle.lock().unwrap()(&query);
                send_frame(&mut stream, &answer).await;
            }
        }
    })
    .await;
    let seen = Arc::clone(&asked);
    fake_udp(&server.to_string(), move |query| {
        seen.lock().unwrap().push(query.to_vec());
        vec![handle.lock().unwrap()(query)]
    })
    .await;
    (server, asked)
}

/// A server that answers every query.
async fn honest_udp() -> SocketAddr {
    fake_udp("127.0.0.1:0", |query| vec![answer(query, b"honest")])
        .await
        .0
}

/// A server that never says anything.
async fn silent_udp() -> SocketAddr {
    fake_udp("127.0.0.1:0", |_| Vec::new()).await.0
}

/// A port of UDP and TCP on which nobody listens.
async fn closed() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.local_addr().unwrap()
}

fn frame(message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).unwrap();
    [&len.to_be_bytes(), message].concat()
}

async fn send_frame(stream: &mut TcpStream, message: &[u8]) {
    within(stream.write_all(&frame(message))).await.unwrap();
}

/// The next message; `None` where the connection ended.
async fn receive_frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let len = within(stream.read_u16()).await.ok()?;
    let mut message = vec![0; len.into()];
    within(stream.read_exact(&mut message)).await.ok()?;
    Some(message)
}

/// A server by TCP: what it does with each connection.
async fn fake_tcp<F: Future<Output = ()> + Send + 'static>(
    mut handle: impl FnMut(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    address
}
