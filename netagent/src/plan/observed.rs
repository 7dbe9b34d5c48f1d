//! What is there, as far as a plan is made from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use netagent_common::policy::{PolicyId, RouteKind};
use netagent_common::vm::Interface;

use crate::config::PortRange;
use crate::plan::publish::Ports;
use crate::plan::{LENT, SERVICES};
use crate::spec::publish::ExposedPort;

/// What is there.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Links, by interface index.
    pub links: BTreeMap<u32, ObservedLink>,
    /// Routes of the kernel's main and local tables.
    pub routes: Vec<KernelRoute>,
    /// Permanent neighbours.
    pub neighbours: BTreeSet<Neighbour>,
    /// Ports that the kernel gives to nobody who asks for any.
    pub reserved_ports: ReservedPorts,
    /// The datapath; `None` where it is not loaded.
    pub datapath: Option<ObservedDatapath>,
}

/// Ports in `net.ipv4.ip_local_reserved_ports`, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReservedPorts {
    /// All of them.
    pub all: Vec<PortRange>,
    /// Those that the agent added.
    pub own: Vec<PortRange>,
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
    /// MTU that the device takes, where the kernel bounds it.
    pub mtu_range: Option<RangeInclusive<u32>>,
    /// `IFF_UP`.
    pub up: bool,
    /// `IFF_LOWER_UP`: on a TAP, a VMM holds it.
    pub carrier: bool,
    /// Whether it is a TAP.
    pub tap: bool,
    /// Index of the bridge or bond that it is part of.
    pub master: Option<u32>,
    /// Id of the XDP program on it.
    pub xdp: Option<u32>,
    /// Whether it is an Ethernet-type device (ARPHRD_ETHER) and not loopback.
    pub ethernet: bool,
    /// Whether its sysctls are those that a TAP must have (design, decision 5).
    pub hardened: bool,
    /// Addresses with their prefixes.
    pub addresses: BTreeSet<IpNet>,
    /// Those that may be a packet's source, in the order in which the kernel takes them.
    pub sources: Vec<IpNet>,
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
    /// The programs work, and are another build's or were loaded with other constants: they are to be replaced.
    pub stale: bool,
    /// Devices to which programs are attached (a pinned link whose device is alive, or a filter).
    pub attached: BTreeSet<u32>,
    /// Devices to which `drop_all` is attached, and those that cannot have it.
    pub drop_all: BTreeSet<u32>,
    /// Pins of links whose device is gone.
    pub severed: BTreeSet<String>,
    /// Records in force, by slot.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Compiled policies that are whole.
    pub policies: BTreeSet<PolicyId>,
    /// Compiled policies that are there for one family alone: no record may name them.
    pub half_policies: BTreeSet<PolicyId>,
    /// The route map.
    pub routes: BTreeMap<IpNet, RouteTarget>,
    /// Published and exposed ports of all instances.
    pub ports: Ports,
    /// Ports of the host whose listeners guests may reach.
    pub host_ports: BTreeSet<ExposedPort>,
    /// Whether the way to the agent's own servers is open: their namespace, and the programs that lead there.
    pub serving: bool,
    /// Whether the programs on sockets of the host are attached, or cannot be.
    pub leading: bool,
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

impl ObservedLink {
    /// Without alias and never up: a TAP whose maker died before it was configured.
    pub(super) fn is_half_made(&self) -> bool {
        self.alias.is_none() && !self.up
    }

    /// Whether it is an existing TAP that is in use.
    pub(super) fn is_lent(&self) -> bool {
        self.alias
            .as_ref()
            .is_some_and(|alias| alias.ends_with(LENT))
    }

    /// Whether it leads to the servers of the agent.
    pub(super) fn is_way_to_servers(&self) -> bool {
        self.alias
            .as_ref()
            .is_some_and(|alias| alias.ends_with(SERVICES))
    }

    /// Whether its alias begins with this.
    pub(super) fn is_of(&self, prefix: &str) -> bool {
        self.alias
            .as_ref()
            .is_some_and(|alias| alias.starts_with(prefix))
    }
}
