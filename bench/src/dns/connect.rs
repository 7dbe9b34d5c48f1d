//! Whether what an answer leads to is open when the guest hears it: it connects at once, and no first packet is lost.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;

use crate::dns::agent;
use crate::dns::zone::{A, AAAA, Said, Told, Zone};
use crate::figures::Figures;
use crate::report::{Better, Table};
use crate::session::Session;
use netagent_tests::deadline::{SOON, now};
use netagent_tests::guest::Guest;
use netagent_tests::name_server::{PORT, question};
use netagent_tests::server::is_ready;
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{World, server_v4, server_v6};

const ROUNDS: u16 = 10_000;
/// Shorter than the time after which TCP sends a lost packet again.
const LIMIT: Duration = Duration::from_millis(900);
/// Port of the servers.
const HTTP: u16 = 80;
/// Servers that answers take turns with.
const SERVERS: u16 = 8;
/// Longest TTL, s.
const TTL_MAX: u32 = 5;
/// Failures that are told in full.
const TOLD_MAX: usize = 3;

/// Which addresses answers have.
#[derive(Clone, Copy, Debug)]
enum Addresses {
    /// Of eight servers.
    Few,
    /// Each but once.
    New,
}

impl Addresses {
    /// The address of a number.
    fn get(self, number: u16, kind: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        let index = (number % SERVERS) as u8;
        match (self, kind) {
            (Self::Few, AAAA) => server_v6(index).into(),
            (Self::Few, _) => server_v4(index).into(),
            (Self::New, AAAA) => Ipv6Addr::new(0x2001, 0xdb8, 0x201, 0, 0, 0, 1, number).into(),
            (Self::New, _) => Ipv4Addr::new(45, 64, high, low).into(),
        }
    }

    /// One to three addresses, good for up to five seconds; `next` counts on.
    fn say(self, next: &mut u16, kind: u16) -> Said {
        let count = 1 + *next % 3;
        let ttl = u32::from(*next) % (TTL_MAX + 1);
        let addresses = (0..count).map(|index| self.get(next.wrapping_add(index), kind));
        let addresses = addresses.collect();
        *next = next.wrapping_add(count);
        (addresses, ttl)
    }
}

/// Connects to addresses of eight servers, then to ever new ones.
pub(super) fn run(session: &mut Session) {
    measure(session, Addresses::Few, ("few", "8 servers in turns"));
    measure(session, Addresses::New, ("new", "new addresses"));
}

fn measure(session: &mut Session, addresses: Addresses, (id, what): (&str, &str)) {
    let world = World::new();
    // Every address in these networks is one of the world's servers.
    world.outside.ip("route add local 45.64.0.0/16 dev lo");
    world.outside.ip("route add local 2001:db8:201::/64 dev lo");
    let mut next = 0;
    let zone = Zone::start(&world, move |_, kind| addresses.say(&mut next, kind));
    let agent = agent(&world);
    let spec = json!({ "name": "listed", "allowed_domains": ["*.bench.example"] });
    let mut guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    let nic = guest.nics.remove(0);
    let gateway = SocketAddr::from((nic.gateway_v4, PORT));
    let stack = Stack::boot(nic, 1_500);
    let everywhere = (Ipv6Addr::UNSPECIFIED, HTTP);
    let listener = world.outside.run(|| TcpListener::bind(everywhere));
    let listener = listener.expect("the port is free");
    let (reader, writer) = io::pipe().expect("two descriptors");
    let stop = OwnedFd::from(reader);
    let (failures, took) = thread::scope(|scope| {
        scope.spawn(|| {
            while is_ready(listener.as_fd(), stop.as_fd()) {
                drop(listener.accept());
            }
        });
        let found = stack.netns.run(|| rounds(gateway));
        drop(writer);
        found
    });
    let title = format!("a query and a connection at once, {what}, TTL 0 to {TTL_MAX}");
    let mut table = Table::new(&format!("dns/connect/{id}"), &title, ("ms", Better::Lower));
    table.add("query to connection, tenths of all rounds", &tenths(&took));
    table.note(format!(
        "{ROUNDS} rounds; {} queries were forwarded",
        zone.asked()
    ));
    let told = failures.iter().take(TOLD_MAX);
    told.for_each(|failure| table.note(failure));
    let drops = agent.guest_drops("listed");
    table.note(format!("dropped of the guest: {drops:?}"));
    session.add(table);
    let what = format!("{title}: failed connections");
    session.goal(&what, failures.len() as f64, (Better::Lower, 0.0));
}

/// Median of each tenth of very many rounds.
fn tenths(took: &Figures) -> Figures {
    let parts = took.values().chunks(usize::from(ROUNDS / 10));
    let medians = parts.map(|part| part.iter().copied().collect::<Figures>().median());
    medians.collect()
}

/// What failed, and how long each round took, ms.
fn rounds(gateway: SocketAddr) -> (Vec<String>, Figures) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port is free");
    socket.connect(gateway).expect("there is a route");
    socket.set_read_timeout(Some(SOON)).expect("an open socket");
    let (mut failures, mut took) = (Vec::new(), Figures::default());
    for round in 0..ROUNDS {
        let began = now();
        // Every other name is asked for again and again: its answers are those that are held.
        let name = if round % 2 == 0 {
            format!("n{round}.bench.example")
        } else {
            format!("often{}.bench.example", round % 16)
        };
        let kind = if round / 2 % 2 == 0 { A } else { AAAA };
        match connect(&socket, (round, &name, kind)) {
            Ok(stream) => hang_up(stream),
            Err(failure) => failures.push(format!("round {round}, {name}: {failure}")),
        }
        took.add(began.elapsed().as_secs_f64() * 1e3);
    }
    (failures, took)
}

/// Asks for a name and connects to one of its addresses; what went wrong where one of both does.
fn connect(socket: &UdpSocket, question: (u16, &str, u16)) -> Result<TcpStream, String> {
    let (round, ..) = question;
    let addresses = resolve(socket, question)?;
    let address = addresses[usize::from(round) % addresses.len()];
    let server = SocketAddr::new(address, HTTP);
    let stream = TcpStream::connect_timeout(&server, LIMIT);
    stream.map_err(|error| format!("{server}: {error}"))
}

fn resolve(socket: &UdpSocket, (id, name, kind): (u16, &str, u16)) -> Result<Vec<IpAddr>, String> {
    let mut query = question(id, name);
    // The type stands before the class, at the end.
    let at = query.len() - 4;
    query[at..at + 2].copy_from_slice(&kind.to_be_bytes());
    socket.send(&query).expect("the guest is online");
    let mut buffer = [0; 2_048];
    let length = socket.recv(&mut buffer).expect("an answer comes soon");
    let told = Told::read(&buffer[..length]).expect("an answer with addresses");
    assert_eq!((told.id, told.name.as_str()), (id, name));
    if told.code != 0 {
        return Err(format!("the resolver answered with code {}", told.code));
    }
    assert!(matches!(told.addresses.len(), 1..=3), "{told:?}");
    let is_asked_for = |address: &IpAddr| address.is_ipv4() == (kind == A);
    assert!(told.addresses.iter().all(is_asked_for), "{told:?}");
    Ok(told.addresses)
}

/// Ends a connection by a reset: nothing of it stays behind.
fn hang_up(stream: TcpStream) {
    let at_once = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &at_once).expect("an open socket");
}
