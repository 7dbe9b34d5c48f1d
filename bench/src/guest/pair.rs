//! A host with two guests, connected by one of the ways, in namespaces of its own: neighbours that reach each other, or a
//! client and the relay that everything of it goes through.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use super::bulk::Ends;
use super::cable::Waiting;
use super::machine::{INSIDE, Machine, Network, Offloads};
use super::plain::{bridge, open_tap, redirect};
use super::probe;
use super::rules::{forward, of_neighbours, of_relayed};
use super::way::Way;
use super::work::Workers;
use crate::variant::OPEN;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::guest::Guest;
use netagent_tests::netns::NetNs;
use netagent_tests::raw::Raw;
use netagent_tests::relay;
use netagent_tests::tap::{Header, Tap};
use netagent_tests::world::{HOST_V4, ROUTER_V4, UPLINK, World, server_v4};
use serde_json::{Value, json};

/// The guests' TAPs, where it is not the agent that makes them.
const TAPS: [&str; 2] = ["tap0", "tap1"];
/// Routing table of what goes through the relay.
const TABLE: u32 = 100;
/// Name of the client's instance.
const CLIENT: &str = "client";

/// What two guests are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The first one reaches the second one.
    Neighbours,
    /// The first one reaches the world through the second one.
    Relayed,
}

impl Relation {
    /// The ways by which there is one.
    #[must_use]
    pub const fn ways(self) -> &'static [Way] {
        match self {
            Self::Neighbours => &[
                Way::Netagent,
                Way::Redirect,
                Way::Route,
                Way::Nft,
                Way::IptablesNft,
                Way::IptablesLegacy,
                Way::Bridge,
            ],
            Self::Relayed => &[
                Way::Netagent,
                Way::Route,
                Way::Nft,
                Way::IptablesNft,
                Way::IptablesLegacy,
            ],
        }
    }
}

/// A host with its two guests. What comes first is dropped first.
#[derive(Debug)]
pub struct Pair {
    /// What they are to each other.
    pub relation: Relation,
    /// How they are connected.
    pub way: Way,
    /// The guests.
    pub guests: [Machine; 2],
    agent: Option<Agent>,
    _links: Vec<OwnedFd>,
    world: World,
}

impl Pair {
    /// Sets one up.
    ///
    /// # Panics
    /// Without the rights to, or where something that the way needs is not installed.
    #[must_use]
    pub fn prepare(relation: Relation, way: Way) -> Self {
        let world = World::new();
        let (mut agent, mut links) = (None, Vec::new());
        let taps = if way == Way::Netagent {
            let started = world.agent(OPEN);
            let taps = instances(&started, &world.host, relation);
            agent = Some(started);
            taps
        } else {
            let taps = [0, 1].map(|number: u8| {
                let (name, network) = (TAPS[usize::from(number)], network(way, number));
                let tap = open_tap(&world.host, name, (network, !way.is_on_link()));
                (tap, network)
            });
            match relation {
                Relation::Neighbours => links = join(&world.host, way),
                Relation::Relayed => route_through(&world, way),
            }
            taps
        };
        let boot = |(tap, network)| Machine::on_tap(tap, network, (Offloads::On, Waiting::Sleeps));
        let guests = taps.map(boot);
        if relation == Relation::Relayed {
            let relay = &guests[1].netns;
            relay.sysctl("net/ipv4/ip_forward", "1");
            be_lenient(relay, &[INSIDE]);
        }
        let pair = Self {
            relation,
            way,
            guests,
            agent,
            _links: links,
            world,
        };
        pair.check();
        pair
    }

    /// Checks a frame of the first guest's where it arrives: it is what this way makes of it.
    fn check(&self) {
        let (ends, name) = (self.ends(), self.way.name());
        if let (Some(agent), Relation::Relayed) = (&self.agent, self.relation) {
            wait_until("the relay is up", SOON, || {
                let shown = agent.inspect(CLIENT);
                shown["network_interfaces"][0]["relay"]["status"] == "up"
            });
        }
        let far_end = match self.relation {
            Relation::Neighbours => Raw::open(ends.server, INSIDE),
            Relation::Relayed => self.world.wire(),
        };
        let (received, sent) = self.through_relay();
        let packet = probe::send(ends.client, ends.address, &far_end);
        assert_eq!(packet.ends.src, ends.seen_as, "{name}: source");
        assert_eq!(packet.ends.ttl, self.ttl(), "{name}: TTL");
        if self.relation == Relation::Relayed {
            let now = self.through_relay();
            assert!(now.0 > received && now.1 > sent, "{name}: past the relay");
        }
    }

    /// What is left of a TTL of 64.
    const fn ttl(&self) -> u8 {
        match (self.relation, self.way) {
            (Relation::Neighbours, way) if way.is_on_link() => 64,
            // Between guests netagent's programs are two routers, one of each guest; towards a relay they are none.
            (Relation::Neighbours | Relation::Relayed, Way::Netagent) => 62,
            (Relation::Neighbours, _) => 63,
            (Relation::Relayed, _) => 61,
        }
    }

    /// Packets that the second guest received and sent so far.
    #[must_use]
    pub fn through_relay(&self) -> (u64, u64) {
        self.guests[1].netns.packets(INSIDE)
    }

    /// Where a connection of the first guest's is opened.
    #[must_use]
    pub fn ends(&self) -> Ends<'_> {
        let [first, second] = &self.guests;
        let own = first.network.address;
        let (server, address, seen_as) = match self.relation {
            Relation::Neighbours => (&second.netns, second.network.address, own),
            Relation::Relayed if self.way.has_nat() => (&self.world.outside, server_v4(0), HOST_V4),
            Relation::Relayed => (&self.world.outside, server_v4(0), own),
        };
        Ends {
            client: &first.netns,
            server,
            address,
            seen_as,
        }
    }

    /// Whose processor time its traffic takes.
    #[must_use]
    pub fn workers(&self) -> Workers {
        let agent = self.agent.as_ref().map(Agent::pid);
        Workers::with(agent.as_slice())
    }
}

/// Creates the instances and opens their TAPs.
fn instances(agent: &Agent, host: &NetNs, relation: Relation) -> [(Tap, Network); 2] {
    let create = |spec: &Value| {
        let mut guest = Guest::create_from(agent, host, spec, Header::Vnet);
        let nic = guest.nics.remove(0);
        let network = Network::of(&nic);
        (nic.tap, network)
    };
    match relation {
        Relation::Neighbours => ["one", "other"].map(|name| create(&json!({ "name": name }))),
        Relation::Relayed => {
            // There is no client before its relay.
            let relay = create(&relay::shield());
            [create(&relay::client(CLIENT)), relay]
        }
    }
}

fn network(way: Way, number: u8) -> Network {
    let (address, gateway) = if way.is_on_link() {
        (Ipv4Addr::new(198, 51, 100, 50 + number), ROUTER_V4)
    } else {
        let of = |last| Ipv4Addr::new(172, 16, number, last);
        (of(2), of(1))
    };
    Network {
        mac: [0xaa, 0xfc, 0, 0, 0, 1 + number],
        address,
        prefix: 24,
        gateway,
    }
}

/// Lets the two reach each other.
fn join(host: &NetNs, way: Way) -> Vec<OwnedFd> {
    match way {
        Way::Redirect => return redirect(host, TAPS),
        Way::Bridge => bridge(host, &[UPLINK, TAPS[0], TAPS[1]]),
        Way::Route | Way::Nft | Way::IptablesNft | Way::IptablesLegacy => {
            forward(host, way, &of_neighbours(TAPS));
        }
        Way::Netagent | Way::Passt => {}
    }
    Vec::new()
}

/// Leads what the first guest sends, and what is for it, through the second one.
fn route_through(world: &World, way: Way) {
    let host = &world.host;
    let [client, relay] = [0, 1].map(|number| network(way, number).address);
    let [from, through] = TAPS;
    be_lenient(host, &[UPLINK, from, through]);
    host.ip_all(&[
        format!("route add default via {relay} dev {through} table {TABLE}"),
        format!("rule add iif {from} lookup {TABLE}"),
        format!("rule add iif {UPLINK} to {client} lookup {TABLE}"),
    ]);
    forward(host, way, &of_relayed(client, TAPS));
    if way == Way::Route {
        let outside = &world.outside;
        outside.ip(&format!("route add {client}/32 via {HOST_V4}"));
    }
}

/// Lets packets come in by a device that no route to their source leads through, and says nothing of a shorter way.
fn be_lenient(netns: &NetNs, devices: &[&str]) {
    for device in ["all"].iter().chain(devices) {
        for setting in ["rp_filter", "send_redirects"] {
            netns.sysctl(&format!("net/ipv4/conf/{device}/{setting}"), "0");
        }
    }
}
