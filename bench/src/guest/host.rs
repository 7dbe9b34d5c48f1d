//! A host with one guest, connected by one of the ways, in namespaces of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use serde_json::{Value, json};

use super::cable::Waiting;
use super::machine::{Machine, Network, Offloads};
use super::passt::Passt;
use super::plain::{bridge, open_tap, redirect};
use super::probe;
use super::rules::{forward, of_guest};
use super::way::Way;
use super::work::Workers;
use netagent_tests::agent::Agent;
use netagent_tests::guest::Guest;
use netagent_tests::netns::NetNs;
use netagent_tests::tap::{Header, Tap};
use netagent_tests::world::{FAR_END, HOST_V4, ROUTER_V4, UPLINK, World, server_v4};

/// Port of the host that is the guest's.
pub const PUBLISHED: u16 = 8_080;
/// Port of the guest behind it.
pub const GUEST_PORT: u16 = 80;
/// Address of the guest where it is not the agent that gives it one, and the network is not the uplink's.
pub const GUEST_V4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);

/// Name of the guest's instance.
pub const NAME: &str = "guest";
const TAP: &str = "tap0";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const ON_LINK: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 50);
const GUEST_MAC: [u8; 6] = [0xaa, 0xfc, 0, 0, 0, 1];

/// How a host is set up, beside the way.
#[derive(Clone, Debug)]
pub struct Setting {
    /// What frames are handed over.
    pub offloads: Offloads,
    /// How the VMM waits.
    pub waiting: Waiting,
    /// The agent's configuration.
    pub configuration: &'static str,
    /// More of the instance's specification.
    pub spec: Value,
}

impl Setting {
    /// Nothing but the frames.
    #[must_use]
    pub fn with(offloads: Offloads) -> Self {
        Self {
            offloads,
            waiting: Waiting::Sleeps,
            configuration: "",
            spec: json!({}),
        }
    }

    /// The same, with a VMM that never sleeps.
    #[must_use]
    pub fn spinning(self) -> Self {
        Self {
            waiting: Waiting::Spins,
            ..self
        }
    }
}

/// A host with its guest. What comes first is dropped first.
#[derive(Debug)]
pub struct Host {
    /// How the guest is connected.
    pub way: Way,
    /// The guest.
    pub guest: Machine,
    /// The agent, where it is netagent's.
    pub agent: Option<Agent>,
    _links: Vec<OwnedFd>,
    passt: Option<Passt>,
    /// The namespaces.
    pub world: World,
}

impl Host {
    /// Sets one up.
    ///
    /// # Panics
    /// Without the rights to, or where something that the way needs is not installed.
    #[must_use]
    pub fn prepare(way: Way, setting: &Setting) -> Self {
        let world = World::new();
        if setting.offloads == Offloads::Off {
            // As from a wire: frames of one MTU, their checksums made.
            let outside = &world.outside;
            outside.shell(&format!("ethtool -K {FAR_END} tx off tso off gso off"));
        }
        let (mut agent, mut passt, mut links) = (None, None, Vec::new());
        let how = (setting.offloads, setting.waiting);
        let guest = match way {
            Way::Netagent => {
                let started = world.agent(setting.configuration);
                let (tap, network) = instance(&started, &world.host, &setting.spec);
                agent = Some(started);
                Machine::on_tap(tap, network, how)
            }
            Way::Passt => {
                let (process, stream) = Passt::start(&world.host, GUEST_V4, GATEWAY);
                passt = Some(process);
                Machine::on_stream(stream, network(way), setting.offloads)
            }
            Way::Redirect
            | Way::Route
            | Way::Nft
            | Way::IptablesNft
            | Way::IptablesLegacy
            | Way::Bridge => {
                let network = network(way);
                let tap = open_tap(&world.host, TAP, (network, !way.is_on_link()));
                links = connect(&world, way);
                Machine::on_tap(tap, network, how)
            }
        };
        let host = Self {
            way,
            guest,
            agent,
            _links: links,
            passt,
            world,
        };
        host.check();
        host
    }

    /// Checks a frame of the guest's at the far end of the uplink: it is what this way makes of it.
    fn check(&self) {
        let (guest, name) = (&self.guest.netns, self.way.name());
        let packet = probe::send(guest, server_v4(0), &self.world.wire());
        assert_eq!(packet.ends.src, self.seen_as(), "{name}: source");
        let is_hop = !self.way.is_on_link() && self.way != Way::Passt;
        let ttl = if is_hop { 63 } else { 64 };
        assert_eq!(packet.ends.ttl, ttl, "{name}: TTL");
    }

    /// Whose processor time its traffic takes.
    #[must_use]
    pub fn workers(&self) -> Workers {
        let agent = self.agent.as_ref().map(Agent::pid);
        let passt = self.passt.as_ref().map(Passt::pid);
        let others: Vec<u32> = agent.into_iter().chain(passt).collect();
        Workers::with(&others)
    }

    /// Where the guest finds a server of the world.
    #[must_use]
    pub const fn server(&self, index: u8, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(server_v4(index)), port)
    }

    /// Where the world finds the guest's published port: without NAT that is the guest itself.
    #[must_use]
    pub const fn published(&self) -> SocketAddr {
        if self.way.has_nat() {
            SocketAddr::new(IpAddr::V4(HOST_V4), PUBLISHED)
        } else {
            SocketAddr::new(IpAddr::V4(self.guest.network.address), GUEST_PORT)
        }
    }

    /// As whom the world sees the guest.
    #[must_use]
    pub const fn seen_as(&self) -> Ipv4Addr {
        if self.way.has_nat() {
            HOST_V4
        } else {
            self.guest.network.address
        }
    }
}

/// Creates the instance and opens its TAP.
fn instance(agent: &Agent, host: &NetNs, more: &Value) -> (Tap, Network) {
    let mut spec = json!({ "name": NAME, "publish": [format!("{PUBLISHED}:{GUEST_PORT}/tcp")] });
    for (member, value) in more.as_object().into_iter().flatten() {
        spec[member] = value.clone();
    }
    let mut guest = Guest::create_from(agent, host, &spec, Header::Vnet);
    let nic = guest.nics.remove(0);
    let network = Network::of(&nic);
    (nic.tap, network)
}

const fn network(way: Way) -> Network {
    let (address, gateway) = if way.is_on_link() {
        (ON_LINK, ROUTER_V4)
    } else {
        (GUEST_V4, GATEWAY)
    };
    Network {
        mac: GUEST_MAC,
        address,
        prefix: 24,
        gateway,
    }
}

/// Joins the TAP and the uplink.
fn connect(world: &World, way: Way) -> Vec<OwnedFd> {
    let host = &world.host;
    match way {
        Way::Redirect => return redirect(host, [TAP, UPLINK]),
        Way::Bridge => bridge(host, &[UPLINK, TAP]),
        Way::Route | Way::Nft | Way::IptablesNft | Way::IptablesLegacy => {
            forward(host, way, &of_guest(TAP));
            if way == Way::Route {
                let outside = &world.outside;
                outside.ip(&format!("route add {GUEST_V4}/32 via {HOST_V4}"));
            }
        }
        Way::Netagent | Way::Passt => {}
    }
    Vec::new()
}
