//! What can be done to the host: one step at a time.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netagent_common::policy::PolicyId;
use netagent_common::vm::Interface;

use crate::config::PortRange;
use crate::instance::Before;
use crate::plan::publish::PortStep;
use crate::plan::{Neighbour, RouteTarget, TapSpec};
use crate::policy::Compiled;
use crate::spec::publish::ExposedPort;

/// One change of the host. Every step may be applied twice.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are what the sentence of their step names"
)]
pub enum Step {
    /// Load the programs, make and pin maps; what is pinned already and fits stays.
    LoadDatapath,
    /// Reserve the ports that stand for guests, beside what others reserved; what was added for another range goes.
    ReservePorts { ports: PortRange },
    /// Attach `from_uplink`.
    AttachUplink { ifindex: u32, name: String },
    /// Make the servers' namespace and open the way to it; an earlier one ends.
    ServeGuests,
    /// Attach the programs on sockets of the host's processes.
    LeadSockets,
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
    /// Write a compiled policy into maps of its own, and only then under its name.
    WritePolicy { policy: Arc<Compiled> },
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
    /// Attach `drop_all`, which drops by the record that is in force; a device that cannot have it goes without.
    AttachDropAll { ifindex: u32, name: String },
    /// Take `drop_all` off a TAP.
    DetachDropAll { ifindex: u32 },
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
    /// Change what the world and the host may open towards a guest.
    Port(PortStep),
    /// Let guests reach a listener of the host.
    OpenHostPort { port: ExposedPort },
    /// Let guests no longer reach a listener of the host.
    CloseHostPort { port: ExposedPort },
    /// Put a slot out of force: its packets are dropped from now on.
    ClearInterface { slot: u32 },
    /// Remove a compiled policy when no program can read it any more. As long as a record in force names it, it stays.
    RemovePolicy { id: PolicyId },
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

impl Step {
    /// Whether it changes the route map.
    #[must_use]
    pub const fn moves_routes(&self) -> bool {
        matches!(
            self,
            Self::SetRoute { .. } | Self::RemoveRoute { .. } | Self::LoadDatapath
        )
    }

    /// Whether it makes or mends a way, which stays closed until the host's part stands.
    #[must_use]
    pub const fn needs_host(&self) -> bool {
        match self {
            Self::CreateTap { .. }
            | Self::AdoptTap { .. }
            | Self::AttachTap { .. }
            | Self::AddAddress { .. }
            | Self::AddNeighbour { .. }
            | Self::SetLinkUp { .. }
            | Self::AddGuestRoute { .. } => true,
            Self::LoadDatapath
            // Its settings keep the host from forwarding.
            | Self::ConfigureTap { .. }
            | Self::ReservePorts { .. }
            | Self::AttachUplink { .. }
            | Self::ServeGuests
            | Self::LeadSockets
            | Self::DetachUplink { .. }
            | Self::SetRoute { .. }
            | Self::RemoveRoute { .. }
            | Self::RaiseRouteGeneration
            | Self::OpenHostPort { .. }
            | Self::CloseHostPort { .. }
            | Self::WritePolicy { .. }
            | Self::WriteInterface { .. }
            | Self::ReturnTap { .. }
            | Self::AttachDropAll { .. }
            | Self::DetachDropAll { .. }
            | Self::SetLinkDown { .. }
            | Self::Port(_)
            | Self::ClearInterface { .. }
            | Self::RemovePolicy { .. }
            | Self::DetachTap { .. }
            | Self::RemoveLink { .. }
            | Self::RemoveSeveredPin { .. }
            | Self::CollectFlows
            | Self::UnloadDatapath => false,
        }
    }
}
