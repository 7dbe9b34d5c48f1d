//! A guest from link up to its first byte from the world: how long it waits for answers of ours.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::figures::Figures;
use crate::report::{Better, Table};
use crate::session::Session;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, now, wait_until};
use netagent_tests::dhcp::{Message, kind};
use netagent_tests::dhcp_client::{DhcpClient, Program};
use netagent_tests::guest::Guest;
use netagent_tests::name_server::{self, NameServer};
use netagent_tests::neighbour::icmpv6;
use netagent_tests::netns::NetNs;
use netagent_tests::packet::Packet;
use netagent_tests::router::{self, Advertisement};
use netagent_tests::server::Server;
use netagent_tests::stack::{Crossed, INSIDE, Stack};
use netagent_tests::tap::Header;
use netagent_tests::world::{World, server_v4, server_v6};

/// Milliseconds of the sum.
const TARGET_MS: f64 = 100.0;
/// Rounds of a full run.
const ROUNDS: u32 = 7;

const PAGE: &str = "the first byte";

/// Boots guests, one after the other.
///
/// # Panics
/// When a guest does not come up.
pub fn run(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("guests boot by udhcpc and SLAAC", rounds);
    let world = World::new();
    let _names = NameServer::start(&world.outside, (server_v4(9), 53), server_v4(0));
    let addresses: [IpAddr; 2] = [server_v4(0).into(), server_v6(0).into()];
    let _pages = addresses.map(|address| Server::page(&world.outside, address, PAGE));
    let agent = world.agent(&format!("[dns]\nupstream = [\"{}\"]\n", server_v4(9)));
    let mut parts: BTreeMap<&str, Figures> = BTreeMap::new();
    let (mut sums, mut walls) = (Figures::default(), Figures::default());
    for _ in 0..rounds {
        let (waits, wall) = measure(&world, &agent, addresses);
        for (what, waits) in &waits {
            let part = parts.entry(what).or_default();
            part.add(milliseconds(waits.iter().sum()));
        }
        sums.add(milliseconds(waits.values().flatten().sum()));
        walls.add(milliseconds(wall));
        let answer = agent.api("DELETE", "/v1/instances/bench", "");
        assert!(answer.status < 300, "{answer:?}");
        bar.inc(1);
    }
    let title = "a guest by udhcpc and SLAAC, a name, and a page over IPv4 and IPv6";
    let mut table = Table::new("dhcp/first-byte", title, ("ms", Better::Lower));
    table.add("sum of our answers", &sums);
    table.add("everything, the guest's own time too", &walls);
    for (what, figures) in &parts {
        table.add(what, figures);
    }
    session.add(table);
    let what = "first byte of a guest: sum of our answers, ms";
    session.goal(what, sums.median(), (Better::Lower, TARGET_MS));
}

type Waits = BTreeMap<&'static str, Vec<Duration>>;

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Boots one guest; how long it waited for what, and until it had everything.
fn measure(world: &World, agent: &Agent, addresses: [IpAddr; 2]) -> (Waits, Duration) {
    let spec = json!({ "name": "bench" });
    let guest = Guest::create_from(agent, &world.host, &spec, Header::Vnet);
    let gateway = guest.nic().gateway_v4;
    // What is said when the VMM comes is over, as for a guest whose kernel takes its time: it has to ask.
    router::advertised(guest.nic(), Advertisement::is_to_all);
    let stack = Stack::recorded(guest.nics);
    let began = now();
    let client = DhcpClient::start(&stack.netns, INSIDE, Program::Udhcpc);
    client.lease();
    let reply = name_server::ask_udp(&stack.netns, (gateway, name_server::PORT), "example.net");
    reply.expect("the gateway resolves");
    wait_until("an address by advertisement", SOON, || {
        let shown = stack
            .netns
            .shell("ip -6 address show dev eth0 scope global");
        shown.contains("inet6") && !shown.contains("tentative")
    });
    for address in addresses {
        fetch(&stack.netns, address);
    }
    let wall = began.elapsed();
    let recording = stack.recording.as_ref().expect("it is recorded");
    let crossed = recording.lock().expect("no holder panics").clone();
    (waits(&crossed), wall)
}

/// Connects, asks, and waits for the first byte.
fn fetch(netns: &NetNs, address: IpAddr) {
    let place = SocketAddr::new(address, 80);
    let stream = netns.run(|| TcpStream::connect_timeout(&place, SOON));
    let mut stream = stream.expect("the world is reached");
    stream.set_read_timeout(Some(SOON)).expect("an open socket");
    let asked = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
    asked.expect("the world listens");
    stream.read_exact(&mut [0]).expect("a byte of the page");
}

/// What a guest asks, and how its answer is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    Arp([u8; 4]),
    Dhcp(u32, u8),
    Router,
    Neighbour(Ipv6Addr),
    /// Ports, and whether it is about the connection itself.
    Other((u16, u16), bool),
}

impl Question {
    fn name(&self) -> &'static str {
        match self {
            Self::Arp(_) => "ARP",
            Self::Dhcp(_, kind::OFFER) => "DHCP offer",
            Self::Dhcp(..) => "DHCP acknowledgement",
            Self::Router => "router advertisement",
            Self::Neighbour(_) => "neighbour discovery",
            Self::Other((_, name_server::PORT), _) => "DNS",
            Self::Other(_, true) => "connection to the world",
            Self::Other(_, false) => "first byte of the world",
        }
    }
}

/// From each question until its answer. One that is asked again waits since it was asked first.
fn waits(crossed: &[Crossed]) -> Waits {
    let mut asked: BTreeMap<Question, Instant> = BTreeMap::new();
    let mut waits = Waits::new();
    for Crossed {
        at,
        is_from_vm,
        bytes,
    } in crossed
    {
        let Some(question) = question(bytes, *is_from_vm) else {
            continue;
        };
        if *is_from_vm {
            asked.entry(question).or_insert(*at);
        } else if let Some(since) = asked.remove(&question) {
            let wait = at.duration_since(since);
            waits.entry(question.name()).or_default().push(wait);
        }
    }
    waits
}

/// The question that a frame asks or answers.
fn question(bytes: &[u8], is_from_vm: bool) -> Option<Question> {
    if bytes.get(12..14)? == [8, 6] {
        // The target asks from where the sender answers.
        let at = if is_from_vm { 38 } else { 28 };
        return Some(Question::Arp(bytes.get(at..at + 4)?.try_into().ok()?));
    }
    let packet = Packet::parse(bytes)?;
    let ports = if is_from_vm {
        packet.ports
    } else {
        (packet.ports.1, packet.ports.0)
    };
    match (packet.protocol, ports) {
        (17, (68, 67)) => {
            let message = Message::parse(&packet.payload)?;
            let answer = match message.kind() {
                kind::DISCOVER => kind::OFFER,
                kind::REQUEST => kind::ACK,
                answer => answer,
            };
            Some(Question::Dhcp(message.xid, answer))
        }
        (58, _) => match packet.kind {
            icmpv6::ROUTER_SOLICITATION | icmpv6::ROUTER_ADVERTISEMENT => Some(Question::Router),
            icmpv6::SOLICITATION | icmpv6::ADVERTISEMENT => {
                let target: [u8; 16] = bytes.get(62..78)?.try_into().ok()?;
                Some(Question::Neighbour(target.into()))
            }
            _ => None,
        },
        (6 | 17, _) => {
            // SYN, or data.
            let is_syn = packet.protocol == 6 && packet.kind & 2 != 0;
            let is_data = !packet.payload.is_empty();
            (is_syn || is_data).then_some(Question::Other(ports, is_syn))
        }
        _ => None,
    }
}
