//! The difference between what is wanted and what is there, as a list of steps. Pure: no clock, no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use netagent_common::policy::PolicyId;
use netagent_common::vm::Interface;
use uuid::Uuid;

use crate::config::PortRange;
use crate::instance::Before;
use crate::plan::publish::Ports;
use crate::policy::Compiled;
use crate::spec::publish::ExposedPort;

mod after;
pub(crate) mod display;
mod host;
pub(crate) mod interfaces;
mod leftovers;
pub(crate) mod legs;
mod observed;
mod policies;
pub mod publish;
pub mod routes;
mod step;

pub use observed::{
    KernelRoute, KernelRouteKind, Neighbour, Observed, ObservedDatapath, ObservedLink,
    ReservedPorts, RouteTarget,
};
pub use step::Step;

/// Everything that should exist on this host.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Names the agent's links: their alias is `netagent:<store id>:<interface id>` (S-4).
    pub store_id: Uuid,
    /// The part that does not belong to one instance.
    pub datapath: WantedDatapath,
    /// Interfaces of the instances that run, by interface id.
    pub interfaces: BTreeMap<Uuid, WantedInterface>,
    /// Published and exposed ports of the instances that run, by their number.
    pub ports: BTreeMap<u32, Ports>,
    /// Compiled policies of every instance that runs, by their names.
    pub policies: BTreeMap<PolicyId, Arc<Compiled>>,
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
    /// Names of uplinks that are not there.
    pub missing_uplinks: BTreeSet<String>,
    /// Ports that stand for guests: the kernel gives them to nobody else.
    pub ports: PortRange,
    /// Prefixes of the pools: other instances and their gateways.
    pub pools: Vec<IpNet>,
    /// Prefixes that are never reached (P-5).
    pub always_denied: Vec<IpNet>,
    /// Prefixes inside those that are reached all the same, where the kernel's routes lead there.
    pub open: BTreeSet<IpNet>,
    /// Ports of the host whose listeners guests may reach.
    pub host_ports: BTreeSet<ExposedPort>,
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
    /// Whether nearly nothing that the guest sends is to pass, so that `drop_all` is to be attached.
    pub drop_all: bool,
    /// What the programs know of its leg, where it has a relay: as it is while that is there. The index is 0 where it is
    /// not wanted to be.
    pub leg: Option<Interface>,
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

/// The steps that lead from what is there to what is wanted, and what no step can mend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order. A step that fails ends its group, no other; but where the host's group fails, an
    /// instance's goes on [`Group::without_host`].
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

impl Group {
    /// What needs nothing of the host's part, before the first step that does: so a policy is in force whatever else
    /// cannot be.
    #[must_use]
    pub fn without_host(mut self) -> Self {
        let first = self.steps.iter().position(Step::needs_host);
        self.steps.truncate(first.unwrap_or(self.steps.len()));
        self
    }
}

/// Whose steps or problems they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The part that belongs to no instance.
    Host,
    /// Something that is no longer wanted, and that its instance waits for.
    Leftover,
    /// A compiled policy that no record names: nothing waits for it.
    Unnamed,
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
    /// The address under which an instance is to leave went away (N-8).
    #[error(
        "the host no longer has its snat_address {address}, and it leaves under no other: add it to an uplink again"
    )]
    SnatAddressGone {
        /// Instance that is to leave under it.
        instance: u32,
        /// The address.
        address: IpAddr,
    },
    /// An uplink went away.
    #[error("uplink '{name}' is gone: bring it back, or name another with --uplink")]
    UplinkGone {
        /// Its name.
        name: String,
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
            | Self::NotTheTap { instance, .. }
            | Self::SnatAddressGone { instance, .. } => Owner::Instance(*instance),
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
    legs::plan_turned(wanted, observed, &mut plan);
    publish::plan_ownerless(wanted, observed, &mut plan);
    leftovers::plan_leftovers(wanted, observed, &mut plan);
    interfaces::plan_interfaces(wanted, observed, &mut plan);
    policies::plan_unwanted(wanted, observed, &mut plan);
    plan
}

/// What must be done for some interfaces that start, given only those; nothing else is touched.
#[must_use]
pub fn plan_start(wanted: &Wanted, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    legs::plan_turned(wanted, observed, &mut plan);
    leftovers::plan_replaced(wanted, observed, &mut plan);
    interfaces::plan_interfaces(wanted, observed, &mut plan);
    policies::plan_unwanted(wanted, observed, &mut plan);
    plan
}

/// What must be done before a relay goes, for its clients.
#[must_use]
pub fn plan_turned(wanted: &Wanted, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    legs::plan_turned(wanted, observed, &mut plan);
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
    publish::plan_slots(slots, observed, &mut plan);
    leftovers::plan_removal((aliases, slots), lent, observed, &mut plan);
    policies::plan_cleared(slots, observed, &mut plan);
    plan
}

/// The alias of every link of a store begins with this (S-4).
#[must_use]
pub fn alias_prefix(store_id: Uuid) -> String {
    format!("netagent:{store_id}:")
}

#[cfg(test)]
mod tests;
