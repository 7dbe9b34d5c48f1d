//! A relay and its clients: Linux guests on TAPs whose every frame is recorded, one of which forwards, and the uplink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netagent_common::net::protocol;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::deadline::{SOON, wait_for, wait_until};
use crate::guest::Nic;
use crate::netns::NetNs;
use crate::packet::Packet;
use crate::ping::answers;
use crate::raw::Raw;
use crate::stack::{Crossed, INSIDE, Stack};
use crate::tap::Header;
use crate::world::{FAR_END, ROUTER_V4, ROUTER_V6, UPLINK, World};

/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Name of the relay's instance.
pub const SHIELD: &str = "shield";
/// Name of the relay's interface.
pub const SHIELD_INTERFACE: &str = "shield-eth0";

/// A VM: an instance's interfaces, each plugged into a Linux stack, with what crosses their cables.
#[derive(Debug)]
pub struct Vm {
    /// Name of its instance.
    pub name: String,
    /// What the agent said of its first interface.
    pub interface: Value,
    /// Hardware address of the first interface.
    pub mac: [u8; 6],
    /// Address of the first interface.
    pub v4: Ipv4Addr,
    /// IPv6 address of the first interface; `::` where it has none.
    pub v6: Ipv6Addr,
    /// Gateway of the first interface.
    pub gateway_v4: Ipv4Addr,
    stack: Stack,
}

impl Vm {
    /// Creates an instance and boots a VM for it.
    #[must_use]
    pub fn create(world: &World, agent: &Agent, spec: &Value) -> Self {
        Self::boot(&world.host, &agent.create(spec))
    }

    /// Boots a VM for an instance as the agent shows it: addresses and routes are typed in.
    ///
    /// # Panics
    /// Without the rights to.
    #[must_use]
    pub fn boot(host: &NetNs, instance: &Value) -> Self {
        let interfaces = instance["network_interfaces"].as_array();
        let interfaces = interfaces.expect("an instance has interfaces");
        let open = |interface| Nic::open(host, interface, Header::Vnet);
        let nics: Vec<Nic> = interfaces.iter().map(open).collect();
        let (mac, v4, v6) = (nics[0].mac, nics[0].v4, nics[0].v6);
        let gateway_v4 = nics[0].gateway_v4;
        let stack = Stack::recorded(nics);
        for (index, interface) in interfaces.iter().enumerate() {
            configure(&stack.netns, &format!("eth{index}"), interface);
        }
        let netns = &stack.netns;
        netns.ip(&format!(
            "route add default via {gateway_v4} dev {INSIDE} onlink"
        ));
        if !v6.is_unspecified() {
            netns.ip(&format!("route add default via fe80::1 dev {INSIDE}"));
        }
        Self {
            name: instance["name"].as_str().expect("a name").to_owned(),
            interface: interfaces[0].clone(),
            mac,
            v4,
            v6,
            gateway_v4,
            stack,
        }
    }

    /// Where its programs run.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.stack.netns
    }

    /// Its address of one family.
    #[must_use]
    pub fn address(&self, is_v4: bool) -> IpAddr {
        if is_v4 {
            self.v4.into()
        } else {
            self.v6.into()
        }
    }

    /// Name of its first TAP.
    ///
    /// # Panics
    /// Where the agent named none.
    #[must_use]
    pub fn tap_name(&self) -> &str {
        self.interface["tap_name"].as_str().expect("a TAP")
    }

    /// What has crossed its cables so far.
    ///
    /// # Panics
    /// When a pump did.
    #[must_use]
    pub fn crossed(&self) -> Vec<Crossed> {
        let recording = self.stack.recording.as_ref().expect("it is recorded");
        recording.lock().expect("no holder panics").clone()
    }

    /// Forgets what has crossed its cables so far.
    ///
    /// # Panics
    /// When a pump did.
    pub fn forget(&self) {
        let recording = self.stack.recording.as_ref().expect("it is recorded");
        recording.lock().expect("no holder panics").clear();
    }

    /// The packets that crossed its cables, from the VM or towards it, of which `wanted` holds.
    #[must_use]
    pub fn packets(&self, is_from_vm: bool, wanted: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        let crossed = self.crossed().into_iter();
        crossed
            .filter(|frame| frame.is_from_vm == is_from_vm)
            .filter_map(|frame| Packet::parse(&frame.bytes))
            .filter(wanted)
            .collect()
    }

    /// Lets it forward, as `netagent guest` says that a relay's VM must be set up.
    pub fn forward(&self) {
        let netns = self.netns();
        for (setting, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/eth0/rp_filter", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/eth0/send_redirects", "0"),
            ("ipv6/conf/eth0/accept_ra", "2"),
            ("ipv6/conf/all/forwarding", "1"),
        ] {
            netns.sysctl(&format!("net/{setting}"), value);
        }
    }
}

/// Types an interface's addresses in.
fn configure(netns: &NetNs, device: &str, interface: &Value) {
    for (setting, value) in [("accept_ra", "0"), ("accept_dad", "0")] {
        netns.sysctl(&format!("net/ipv6/conf/{device}/{setting}"), value);
    }
    if let Some(mtu) = interface["mtu"].as_u64() {
        netns.ip(&format!("link set {device} mtu {mtu}"));
    }
    netns.ip(&format!("link set {device} up"));
    for (member, more) in [("ip", ""), ("ip6", "nodad")] {
        if let Some(address) = interface[member].as_str() {
            netns.ip(&format!("address add {address} dev {device} {more}"));
        }
    }
}

/// What a client's interface says of its relay, with `relay_dns` where it is said.
#[must_use]
pub fn relayed(relay_dns: Option<bool>) -> Value {
    let mut relay = json!({ "name": SHIELD_INTERFACE });
    if let Some(relay_dns) = relay_dns {
        relay["relay_dns"] = relay_dns.into();
    }
    json!({ "relay": relay })
}

/// The specification of a client with one interface from the pool.
#[must_use]
pub fn client(name: &str) -> Value {
    json!({ "name": name, "network_interfaces": [relayed(None)] })
}

/// The specification of the relay.
#[must_use]
pub fn shield() -> Value {
    json!({ "name": SHIELD, "network_interfaces": [{ "name": SHIELD_INTERFACE }] })
}

/// A cable into the world, both ways.
#[derive(Debug)]
pub struct UplinkTap {
    leaving: Raw,
    arriving: Raw,
}

impl UplinkTap {
    /// Listens from now on.
    #[must_use]
    pub fn open(world: &World) -> Self {
        Self {
            leaving: Raw::open(&world.outside, FAR_END),
            arriving: Raw::open(&world.host, UPLINK),
        }
    }

    /// What has left the host since the last call.
    #[must_use]
    pub fn left(&self) -> Vec<Vec<u8>> {
        drained(&self.leaving)
    }

    /// What has arrived at the host since the last call.
    #[must_use]
    pub fn arrived(&self) -> Vec<Vec<u8>> {
        drained(&self.arriving)
    }
}

fn drained(raw: &Raw) -> Vec<Vec<u8>> {
    let frames = std::iter::from_fn(|| raw.receive_now());
    frames.map(|received| received.frame.completed()).collect()
}

/// Packets of frames, those of neighbour discovery left out.
#[must_use]
pub fn packets_of(frames: &[Vec<u8>]) -> Vec<Packet> {
    let packets = frames.iter().filter_map(|frame| Packet::parse(frame));
    packets.filter(|packet| !is_discovery(packet)).collect()
}

/// Whether it is neighbour discovery, router discovery or a group report.
#[must_use]
pub fn is_discovery(packet: &Packet) -> bool {
    packet.protocol == protocol::ICMPV6 && matches!(packet.kind, 130..=137 | 143)
}

/// Where a packet was seen, each time once: on the client's cable, into the relay, out of the relay, and on the uplink;
/// a reply the other way round.
#[derive(Clone, Debug)]
pub struct Passage {
    /// On the client's cable.
    pub client: Packet,
    /// On the relay's cable, towards the relay where it goes out, else from it.
    pub relay_client_side: Packet,
    /// On the relay's cable, from the relay where it goes out, else towards it.
    pub relay_world_side: Packet,
    /// On the uplink.
    pub uplink: Packet,
}

/// A world, an agent, a relay that forwards, and its clients.
#[derive(Debug)]
pub struct Scene {
    /// Client VMs, each ended before the relay's.
    pub clients: Vec<Vm>,
    /// The relay's VM, while there is one.
    relay: Option<Vm>,
    /// The uplink.
    pub uplink: UplinkTap,
    /// The agent.
    pub agent: Agent,
    /// The world.
    pub world: World,
}

impl Scene {
    /// With these clients.
    #[must_use]
    pub fn new(configuration: &str, clients: &[Value]) -> Self {
        Self::with_relay(configuration, &shield(), clients)
    }

    /// With a relay as specified.
    #[must_use]
    pub fn with_relay(configuration: &str, relay: &Value, clients: &[Value]) -> Self {
        let world = World::new();
        let agent = world.agent(configuration);
        Self::in_world(world, agent, (relay, clients))
    }

    /// In a world that is made already.
    #[must_use]
    pub fn in_world(world: World, agent: Agent, (relay, clients): (&Value, &[Value])) -> Self {
        let relay = Vm::create(&world, &agent, relay);
        relay.forward();
        let relay = Some(relay);
        let create = |spec| Vm::create(&world, &agent, spec);
        let clients = clients.iter().map(create).collect();
        let scene = Self {
            clients,
            relay,
            uplink: UplinkTap::open(&world),
            agent,
            world,
        };
        scene.wait_for_relay();
        scene
    }

    /// The first client.
    #[must_use]
    pub fn client(&self) -> &Vm {
        &self.clients[0]
    }

    /// The relay's VM.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn relay(&self) -> &Vm {
        self.relay.as_ref().expect("the relay's VM runs")
    }

    /// Ends the relay's VMM, as a crash does.
    pub fn kill_relay(&mut self) {
        self.relay = None;
    }

    /// Boots a VM for the relay's instance.
    pub fn boot_relay(&mut self) {
        let relay = Vm::boot(&self.world.host, &self.agent.inspect(SHIELD));
        relay.forward();
        self.relay = Some(relay);
    }

    /// Waits until every client reaches the world.
    ///
    /// # Panics
    /// When one does not.
    pub fn wait_for_relay(&self) {
        for client in &self.clients {
            self.wait_for_client(client);
        }
    }

    /// Waits until a client reaches the world's router, in each family that it has.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_for_client(&self, client: &Vm) {
        let mut routers: Vec<IpAddr> = vec![ROUTER_V4.into()];
        if !client.v6.is_unspecified() {
            routers.push(ROUTER_V6.into());
        }
        for router in routers {
            let what = format!("{} reaches {router} through the relay", client.name);
            wait_until(&what, SOON, || answers(client.netns(), router, PATIENCE));
        }
    }

    /// Forgets what was seen on every cable.
    pub fn forget(&self) {
        self.relay().forget();
        self.clients.iter().for_each(Vm::forget);
        drop((self.uplink.left(), self.uplink.arrived()));
    }

    /// Where the one packet between a client and a server whose payload ends with these bytes was seen since
    /// [`Self::forget`].
    ///
    /// # Panics
    /// Where it was not seen once at each place.
    #[must_use]
    pub fn passage(
        &self,
        (client, server): (&Vm, IpAddr),
        is_outbound: bool,
        text: &[u8],
    ) -> Passage {
        let has_text = |packet: &Packet| {
            let ends = &packet.ends;
            let to = if is_outbound { ends.dst } else { ends.src };
            to == server && packet.payload.ends_with(text)
        };
        let one = |place: &str, mut seen: Vec<Packet>| {
            assert_eq!(seen.len(), 1, "{place}: {seen:?}");
            seen.remove(0)
        };
        let frames = if is_outbound {
            self.uplink.left()
        } else {
            self.uplink.arrived()
        };
        let on_uplink = packets_of(&frames).into_iter().filter(|p| has_text(p));
        Passage {
            client: one("the client's cable", client.packets(is_outbound, has_text)),
            relay_client_side: one(
                "the relay's cable, the client's side",
                self.relay().packets(!is_outbound, has_text),
            ),
            relay_world_side: one(
                "the relay's cable, the world's side",
                self.relay().packets(is_outbound, has_text),
            ),
            uplink: one("the uplink", on_uplink.collect()),
        }
    }

    /// Waits until an instance has more than `before` drops of a reason.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_for_drop(&self, name: &str, reason: &str, before: u64) -> u64 {
        wait_for(&format!("{name}: drops of {reason}"), SOON, || {
            let count = self.drops(name, reason);
            (count > before).then_some(count)
        })
    }

    /// Drops of an instance for a reason.
    #[must_use]
    pub fn drops(&self, name: &str, reason: &str) -> u64 {
        let drops = self.agent.drops(name);
        drops.get(reason).copied().unwrap_or_default()
    }
}
