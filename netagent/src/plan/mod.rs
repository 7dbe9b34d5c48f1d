//! The difference between what is wanted and what is there, as a list of steps. Pure: no clock, no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net};
use netagent_common::policy::RouteKind;
use netagent_common::vm::Interface;
use uuid::Uuid;

use crate::instance::Before;

mod after;
mod display;
mod host;
mod interfaces;
mod leftovers;
pub mod routes;

/// Everything that should exist on this host.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Names the agent's links: their alias is `netagent:<store id>:<interface id>` (S-4).
    pub store_id: Uuid,
    /// The part that does not belong to one instance.
    pub datapath: WantedDatapath,
    /// Interfaces of the instances that run, by interface id.
    pub interfaces: BTreeMap<Uuid, WantedInterface>,
    /// How existing TAPs are to be given back when they are no longer wanted, by the alias that they carry while
    /// they are in use.
    pub lent: Lent,
}

/// How existing TAPs are to be given back, by alias.
pub type Lent = BTreeMap<String, Before>;

/// The alias of an existing TAP that is in use ends with this: it is given back, never deleted (I-9).
pub const LENT: &str = ":lent";

/// The alias of the host's end of the way to the servers ends with this. It goes with the agent that made it.
pub const SERVICES: &str = ":services";

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
    /// The gateway's address with its prefix, on the TAP: a pool interface's /30, a custom one's /32, so that
    /// several TAPs may share a network (I-8).
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
    /// User that may open it. Where a group is named too, one must be both: the kernel asks for each that
    /// is set. With neither, it is root's alone.
    pub owner: Option<u32>,
    /// Group that may open it.
    pub group: Option<u32>,
    /// Queues; more than one makes it multi-queue.
    pub queues: u16,
    /// MTU, bytes.
    pub mtu: u32,
    /// Whether it is to have IPv6.
    pub v6: bool,
    /// `netagent:<store id>:<interface id>`, and [`LENT`] behind it where the user made the TAP.
    pub alias: String,
    /// Whether the user made it.
    pub lent: bool,
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
    /// Pins of links whose device is gone.
    pub severed: BTreeSet<String>,
    /// Records in force, by slot.
    pub interfaces: BTreeMap<u32, Interface>,
    /// The route map.
    pub routes: BTreeMap<IpNet, RouteTarget>,
    /// Whether the way to the agent's own servers is open: their namespace, and the programs that lead there.
    pub serving: bool,
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

/// The steps that lead from what is there to what is wanted, and what no step can mend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order. A step that fails ends its group, no other; but where the host's group fails, no
    /// instance's group may follow.
    pub groups: Vec<Group>,
    /// What stands in the way.
    pub problems: Vec<Problem>,
}

/// Steps that build on each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Whose they are.
    pub owner: Owner,
    /// Every prefix of them leaves a safe state.
    pub steps: Vec<Step>,
}

/// Whose steps or problems they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The part that belongs to no instance.
    Host,
    /// Something that is no longer wanted.
    Leftover,
    /// The instance with this number ([`Interface::instance`]).
    Instance(u32),
}

/// What stands in the way, and no step of ours can change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// S-4.
    #[error(
        "device '{name}' is not netagent's, but stands where its TAP should: remove or rename it"
    )]
    ForeignDevice {
        /// Instance whose TAP it keeps out.
        instance: u32,
        /// Name of the device.
        name: String,
    },
    /// Somebody renamed a TAP.
    #[error("TAP '{wanted}' was renamed to '{name}': rename it back")]
    Renamed {
        /// Instance whose TAP it is.
        instance: u32,
        /// The name it has.
        name: String,
        /// The name it should have.
        wanted: String,
    },
    /// The user's TAP went away (I-9).
    #[error("TAP device '{name}' is gone: make it again, the agent takes it from there")]
    TapGone {
        /// Instance that uses it.
        instance: u32,
        /// Its name.
        name: String,
    },
    /// The user put something else in the TAP's place.
    #[error("device '{name}' is no longer the TAP device that was lent: put that one back")]
    NotTheTap {
        /// Instance that uses it.
        instance: u32,
        /// Its name.
        name: String,
    },
    /// An uplink went away.
    #[error("uplink {ifindex} is gone: bring it back, or name another with --uplink")]
    UplinkGone {
        /// Its interface index.
        ifindex: u32,
    },
    /// The route map is too small.
    #[error(
        "the host has {count} routes, {max} at most are used: remove some, the longest are left out"
    )]
    TooManyRoutes {
        /// Routes of one family.
        count: usize,
        /// Places in the map.
        max: usize,
    },
}

impl Problem {
    /// Whose problem it is.
    #[must_use]
    pub const fn owner(&self) -> Owner {
        match self {
            Self::ForeignDevice { instance, .. }
            | Self::Renamed { instance, .. }
            | Self::TapGone { instance, .. }
            | Self::NotTheTap { instance, .. } => Owner::Instance(*instance),
            Self::UplinkGone { .. } | Self::TooManyRoutes { .. } => Owner::Host,
        }
    }
}

impl Plan {
    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// All steps in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.groups.iter().flat_map(|group| &group.steps)
    }

    fn push(&mut self, owner: Owner, steps: Vec<Step>) {
        if !steps.is_empty() {
            self.groups.push(Group { owner, steps });
        }
    }
}

/// What must be done, all of it.
#[must_use]
pub fn plan(wanted: &Wanted, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    host::plan_host(wanted, observed, &mut plan);
    leftovers::plan_leftovers(wanted, observed, &mut plan);
    interfaces::plan_interfaces(wanted, observed, &mut plan);
    plan
}

/// What must be done for some interfaces that start, given only those; nothing else is touched.
#[must_use]
pub fn plan_start(wanted: &Wanted, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    leftovers::plan_replaced(wanted, observed, &mut plan);
    interfaces::plan_interfaces(wanted, observed, &mut plan);
    plan
}

/// What must be done to take some interfaces off the host, given by their aliases and slots.
#[must_use]
pub fn plan_stop(
    aliases: &BTreeSet<String>,
    slots: &BTreeSet<u32>,
    lent: &Lent,
    observed: &Observed,
) -> Plan {
    let mut plan = Plan::default();
    leftovers::plan_removal((aliases, slots), lent, observed, &mut plan);
    plan
}

/// The alias of every link of a store begins with this (S-4).
#[must_use]
pub fn alias_prefix(store_id: Uuid) -> String {
    format!("netagent:{store_id}:")
}

impl ObservedLink {
    /// Without alias and never up: a TAP whose maker died before it was configured.
    fn is_half_made(&self) -> bool {
        self.alias.is_none() && !self.up
    }

    /// Whether it is an existing TAP that is in use.
    fn is_lent(&self) -> bool {
        self.alias
            .as_ref()
            .is_some_and(|alias| alias.ends_with(LENT))
    }

    /// Whether it leads to the servers of the agent.
    fn is_way_to_servers(&self) -> bool {
        self.alias
            .as_ref()
            .is_some_and(|alias| alias.ends_with(SERVICES))
    }

    /// Whether its alias begins with this.
    fn is_of(&self, prefix: &str) -> bool {
        self.alias
            .as_ref()
            .is_some_and(|alias| alias.starts_with(prefix))
    }
}

/// One change of the host. Every step may be applied twice.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are what the sentence of their step names"
)]
pub enum Step {
    /// Load the programs, make and pin maps; what is pinned already and fits stays.
    LoadDatapath,
    /// Attach `from_uplink`.
    AttachUplink { ifindex: u32, name: String },
    /// Make the servers' namespace and open the way to it; an earlier one ends.
    ServeGuests,
    /// Take `from_uplink` off.
    DetachUplink { ifindex: u32 },
    /// Write an entry of the route map.
    SetRoute {
        destination: IpNet,
        target: RouteTarget,
    },
    /// Remove an entry of the route map.
    RemoveRoute { destination: IpNet },
    /// Make flows look up their way again.
    RaiseRouteGeneration,
    /// Write the idle copy of an interface's record and put it in force. Where no record of the same
    /// generation was in force, its counters begin at 0 (S-5).
    WriteInterface { record: Box<Interface> },
    /// Make the TAP, down, with owner, queues, MAC address, MTU, alias and sysctls. It becomes persistent
    /// last: what died half way leaves no device without alias.
    CreateTap { tap: TapSpec },
    /// Mend MAC address, MTU, alias or sysctls of a TAP.
    ConfigureTap { tap: TapSpec },
    /// Take the user's TAP into use: alias first, so that it is given back whatever happens, then MAC address,
    /// MTU, sysctls and queueing.
    AdoptTap { tap: TapSpec },
    /// Give the user's TAP back as it was, the alias last.
    ReturnTap {
        ifindex: u32,
        name: String,
        before: Option<Box<Before>>,
    },
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
    RemoveLink {
        ifindex: u32,
        name: String,
        alias: String,
    },
    /// Remove the pin of a link whose device is gone.
    RemoveSeveredPin { name: String },
    /// Remove flows and counters that belong to no interface in force.
    CollectFlows,
    /// Remove every pin, and with them programs and maps.
    UnloadDatapath,
}

#[cfg(test)]
mod tests;
