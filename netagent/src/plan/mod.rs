//! The difference between what is wanted and what is there, as a list of steps. Pure: no clock, no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use netagent_common::policy::RouteKind;
use netagent_common::vm::Interface;
use uuid::Uuid;

/// Everything that should exist on this host.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Names the agent's links: their alias is `netagent:<store id>:<interface id>` (S-4).
    pub store_id: Uuid,
    /// The part that does not belong to one instance.
    pub datapath: WantedDatapath,
    /// Interfaces of the instances that run, by interface id.
    pub interfaces: BTreeMap<Uuid, WantedInterface>,
}

/// Programs, uplink and routes.
#[derive(Clone, Debug)]
pub struct WantedDatapath {
    /// Interface indices that lead to the world.
    pub uplinks: BTreeSet<u32>,
    /// Prefixes of the pools: other instances and their gateways.
    pub pools: Vec<IpNet>,
    /// Prefixes that are never reached (P-5).
    pub always_denied: Vec<IpNet>,
}

/// One interface of an instance that runs.
#[derive(Clone, Debug)]
pub struct WantedInterface {
    /// The TAP.
    pub tap: TapSpec,
    /// What the programs know of it: complete, with slot and ifindex.
    pub record: Interface,
    /// The gateway's address with its prefix, on the TAP.
    pub host_v4: Ipv4Net,
    /// The guest's address.
    pub guest_v4: Ipv4Addr,
    /// The guest's IPv6 address, where the host has IPv6.
    pub guest_v6: Option<Ipv6Addr>,
}

/// A TAP device to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapSpec {
    /// Name, already checked (I-7).
    pub name: String,
    /// The index that the agent chose ([`netagent_common::vm::ifindex`]).
    pub ifindex: u32,
    /// User that may open it.
    pub owner: u32,
    /// Group that may open it.
    pub group: u32,
    /// Queues; more than one makes it multi-queue.
    pub queues: u16,
    /// MTU, bytes.
    pub mtu: u32,
    /// `netagent:<store id>:<interface id>`.
    pub alias: String,
}

/// What is there.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Links, by interface index.
    pub links: BTreeMap<u32, ObservedLink>,
    /// Routes of the kernel's main and local tables.
    pub routes: Vec<KernelRoute>,
    /// Permanent neighbours.
    pub neighbours: BTreeSet<Neighbour>,
    /// The datapath; `None` where it is not loaded.
    pub datapath: Option<ObservedDatapath>,
}

/// A link as netlink shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedLink {
    /// Name.
    pub name: String,
    /// Alias, where it has one.
    pub alias: Option<String>,
    /// Hardware address.
    pub mac: [u8; 6],
    /// MTU, bytes.
    pub mtu: u32,
    /// `IFF_UP`.
    pub up: bool,
    /// `IFF_LOWER_UP`: on a TAP, a VMM holds it.
    pub carrier: bool,
    /// Whether it is an Ethernet-type device (ARPHRD_ETHER) and not loopback.
    pub ethernet: bool,
    /// Addresses with their prefixes.
    pub addresses: BTreeSet<IpNet>,
}

/// A route of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelRoute {
    /// Destination.
    pub destination: IpNet,
    /// What it does.
    pub kind: KernelRouteKind,
    /// Interface index of the way out; 0 where there is none.
    pub ifindex: u32,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Priority: the lowest wins.
    pub metric: u32,
    /// MTU of the route, where it has one.
    pub mtu: Option<u32>,
}

/// Type of a kernel route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KernelRouteKind {
    /// To a network or next hop.
    Unicast,
    /// An address of the host, anycast included.
    Local,
    /// A broadcast address of the host's networks; multicast.
    Broadcast,
    /// Blackhole, prohibit, unreachable, throw.
    Refused,
}

/// A permanent neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// Interface index.
    pub ifindex: u32,
    /// Address.
    pub address: IpAddr,
    /// Hardware address.
    pub mac: [u8; 6],
}

/// What the pinned maps and links hold.
#[derive(Clone, Debug, Default)]
pub struct ObservedDatapath {
    /// Devices to which programs are attached (a pinned link whose device is alive, or a filter).
    pub attached: BTreeSet<u32>,
    /// Pins of links whose device is gone.
    pub severed: BTreeSet<String>,
    /// Records in force, by slot.
    pub interfaces: BTreeMap<u32, Interface>,
    /// The route map.
    pub routes: BTreeMap<IpNet, RouteTarget>,
}

/// An entry of the route map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteTarget {
    /// Whether guests may go there, and if not, why.
    pub kind: RouteKind,
    /// Interface index of the uplink; 0 where `kind` denies.
    pub ifindex: u32,
    /// MTU of the way; 0 where `kind` denies.
    pub mtu: u32,
    /// Next hop; `None` on-link.
    pub next_hop: Option<IpAddr>,
    /// Address that stands for guests; `None` where `kind` denies.
    pub source: Option<IpAddr>,
}

/// One change of the host. Every step may be applied twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Load the programs, make and pin maps; what is pinned already and fits stays.
    LoadDatapath,
    /// Attach `from_uplink`.
    AttachUplink { ifindex: u32, name: String },
    /// Take `from_uplink` off.
    DetachUplink { ifindex: u32 },
    /// Write an entry of the route map.
    SetRoute { destination: IpNet, target: RouteTarget },
    /// Remove an entry of the route map.
    RemoveRoute { destination: IpNet },
    /// Make flows look up their way again.
    RaiseRouteGeneration,
    /// Write the idle copy of an interface's record and put it in force.
    WriteInterface { record: Box<Interface> },
    /// Make the TAP, down, with owner, queues, MAC address, MTU, alias and sysctls.
    CreateTap { tap: TapSpec },
    /// Mend MAC address, MTU, alias or sysctls of a TAP.
    ConfigureTap { tap: TapSpec },
    /// Attach `from_vm` and `to_vm`.
    AttachTap { ifindex: u32, name: String },
    /// Give a link an address.
    AddAddress { ifindex: u32, address: IpNet },
    /// Make a neighbour permanent.
    AddNeighbour { neighbour: Neighbour },
    /// Set a link up.
    SetLinkUp { ifindex: u32 },
    /// Route the guest's address to its TAP.
    AddGuestRoute { ifindex: u32, guest: IpAddr },
    /// Set a link down.
    SetLinkDown { ifindex: u32 },
    /// Put a slot out of force: its packets are dropped from now on.
    ClearInterface { slot: u32 },
    /// Take the programs off a TAP and remove their pins.
    DetachTap { ifindex: u32 },
    /// Delete a link that carries the agent's alias.
    RemoveLink { ifindex: u32, name: String, alias: String },
    /// Remove the pin of a link whose device is gone.
    RemoveSeveredPin { name: String },
    /// Remove flows and counters that belong to no interface in force.
    CollectFlows,
    /// Remove every pin, and with them programs and maps.
    UnloadDatapath,
}
