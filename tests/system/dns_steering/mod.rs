//! Lists of names (D-2 to D-6): real guests with real resolvers, and a real name server behind the agent's.

mod bounds;
mod exfiltration;
mod front;
mod leak;
mod learned;
mod modes;
mod names;
mod rebinding;
mod restart;
mod surroundings;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};

use netagent_tests::agent::Agent;
use netagent_tests::client::connect;
use netagent_tests::deadline::SOON;
use netagent_tests::dnsmasq::Dnsmasq;
use netagent_tests::guest::Guest;
use netagent_tests::name_server::{self, PORT};
use netagent_tests::netns::NetNs;
use netagent_tests::server;
use netagent_tests::stack::{INSIDE, Stack};
use netagent_tests::tap::Header;
use netagent_tests::upstream::Say;
use netagent_tests::upstream::Upstream;
use netagent_tests::world::{World, server_v4, server_v6};
use serde_json::{Value, json};

/// Which of the world's servers is the upstream.
const UPSTREAM: u8 = 9;
/// The types of addresses.
const A: u16 = 1;
const AAAA: u16 = 28;

/// A world, its name server, and an agent that asks it.
struct Scene<S> {
    agent: Agent,
    upstream: S,
    world: World,
}

impl Scene<Dnsmasq> {
    fn new(records: &[&str]) -> Self {
        let world = World::new();
        let places = [server_v4(UPSTREAM).into(), server_v6(UPSTREAM).into()];
        let upstream = Dnsmasq::start(&world.outside, &places, records);
        Self::with(world, upstream)
    }
}

impl Scene<Upstream> {
    /// The same with a server that says what is wanted.
    fn saying(say: impl Say) -> Self {
        let world = World::new();
        let place = (server_v4(UPSTREAM), PORT);
        let upstream = Upstream::start(&world.outside, place, say);
        Self::with(world, upstream)
    }
}

impl<S> Scene<S> {
    fn with(world: World, upstream: S) -> Self {
        let agent = world.agent(&configuration());
        Self {
            agent,
            upstream,
            world,
        }
    }

    fn boot(&self, spec: &Value) -> Site {
        let mut guest = Guest::create_from(&self.agent, &self.world.host, spec, Header::Vnet);
        let nic = guest.nics.remove(0);
        Site {
            gateway_v4: nic.gateway_v4,
            stack: Stack::boot(nic, 1_500),
        }
    }

    /// A guest that may ask for these names.
    fn listed(&self, name: &str, domains: &[&str]) -> Site {
        self.boot(&json!({ "name": name, "allowed_domains": domains }))
    }

    fn explain(&self, instance: &str, asked: &str) -> Value {
        self.agent.say_json(&["explain", instance, asked, "--json"])
    }
}

fn configuration() -> String {
    format!("[dns]\nupstream = [\"{}\"]\n", server_v4(UPSTREAM))
}

/// A guest with a stack.
struct Site {
    gateway_v4: Ipv4Addr,
    stack: Stack,
}

impl Site {
    fn netns(&self) -> &NetNs {
        &self.stack.netns
    }

    /// The gateways as resolv.conf(5) and dig name them.
    fn gateways(&self) -> [String; 2] {
        [self.gateway_v4.to_string(), format!("fe80::1%{INSIDE}")]
    }

    /// The resolver at the gateway of one family.
    fn gateway(&self, is_v4: bool) -> SocketAddr {
        if is_v4 {
            return (self.gateway_v4, PORT).into();
        }
        let gateway = "fe80::1".parse().unwrap();
        SocketAddrV6::new(gateway, PORT, 0, self.netns().ifindex(INSIDE)).into()
    }

    /// Asks the gateway for the address of a name.
    fn ask(&self, name: &str) -> name_server::Reply {
        name_server::ask_udp(self.netns(), self.gateway(true), name).unwrap()
    }

    /// Asks the gateway for addresses of one family, and gives the last bytes of the answer.
    fn ask_for(&self, name: &str, kind: u16) -> Vec<u8> {
        let gateway = self.gateway(kind == A);
        let any = if kind == A { "0.0.0.0:0" } else { "[::]:0" };
        let mut question = name_server::question(7, name);
        let at = question.len() - 4;
        question[at..at + 2].copy_from_slice(&kind.to_be_bytes());
        let socket = self.netns().run(|| UdpSocket::bind(any)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.connect(gateway).unwrap();
        socket.send(&question).unwrap();
        let mut buffer = [0; 1_500];
        let length = socket.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    /// Connects to the echo server at an address.
    fn connect(&self, address: impl Into<IpAddr>) -> Result<TcpStream, ErrorKind> {
        let address = SocketAddr::new(address.into(), server::PORT);
        connect(self.netns(), address).map_err(|error| error.kind())
    }

    /// Whether the policy refuses a connection there.
    #[track_caller]
    fn check_closed(&self, address: impl Into<IpAddr>) {
        let address = address.into();
        let refused = self.connect(address).map(|_| ());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "{address}");
    }

    #[track_caller]
    fn check_open(&self, address: impl Into<IpAddr>) {
        let address = address.into();
        assert_eq!(self.connect(address).map(|_| ()), Ok(()), "{address}");
    }
}

/// Both addresses of a server of the world.
fn both(index: u8) -> [IpAddr; 2] {
    [server_v4(index).into(), server_v6(index).into()]
}

/// A record of dnsmasq: a name with both addresses of a server of the world.
fn host(name: &str, index: u8, ttl: u32) -> String {
    let (v4, v6) = (server_v4(index), server_v6(index));
    format!("host-record={name},{v4},{v6},{ttl}")
}

fn texts(records: &[String]) -> Vec<&str> {
    records.iter().map(String::as_str).collect()
}
