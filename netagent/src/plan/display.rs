//! What a step says in `netagent plan` and in the log.

use std::fmt;

use netagent_common::policy::policy_flag::LEG;
use netagent_common::policy::{PolicyId, RouteKind};

use crate::plan::{RouteTarget, Step, TapSpec};
use crate::policy::Compiled;

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoadDatapath => write!(f, "load the programs and make their maps"),
            Self::ReservePorts { ports } => write!(f, "reserve ports {ports} for guests"),
            Self::AttachUplink { name, ifindex } => {
                write!(f, "attach from_uplink to {name} ({ifindex})")
            }
            Self::LeadSockets => write!(f, "lead processes of the host to published ports"),
            Self::ServeGuests => write!(f, "open the way to the servers of DHCP and DNS"),
            Self::DetachUplink { ifindex } => write!(f, "detach from_uplink from device {ifindex}"),
            Self::SetRoute {
                destination,
                target,
            } => write!(f, "route {destination} {target}"),
            Self::RemoveRoute { destination } => write!(f, "remove route {destination}"),
            Self::RaiseRouteGeneration => write!(f, "let flows look up their way again"),
            Self::WritePolicy { policy } => write!(f, "write policy {}", Size(policy)),
            Self::RemovePolicy { id } => write!(f, "remove policy {}", Short(*id)),
            Self::WriteInterface { record } if record.policy_flags & LEG != 0 => write!(
                f,
                "write leg record {} of interface {} (device {}, generation {})",
                record.slot, record.client, record.ifindex, record.generation
            ),
            Self::WriteInterface { record } => write!(
                f,
                "write interface record {} (device {}, generation {})",
                record.slot, record.ifindex, record.generation
            ),
            Self::CreateTap { tap } => write!(f, "create TAP {}", Whole(tap)),
            Self::ConfigureTap { tap } => write!(f, "mend TAP {} (MTU {})", tap.name, tap.mtu),
            Self::AdoptTap { tap } => {
                write!(f, "take TAP {} into use (MTU {})", tap.name, tap.mtu)
            }
            Self::ReturnTap { name, ifindex, .. } => {
                write!(f, "give TAP {name} ({ifindex}) back as it was")
            }
            Self::AttachTap { name, ifindex } => {
                write!(f, "attach from_vm and to_vm to {name} ({ifindex})")
            }
            Self::AttachDropAll { name, ifindex } => {
                write!(f, "attach drop_all to {name} ({ifindex})")
            }
            Self::DetachDropAll { ifindex } => write!(f, "detach drop_all from device {ifindex}"),
            Self::AddAddress { ifindex, address } => {
                write!(f, "add address {address} to device {ifindex}")
            }
            Self::AddNeighbour { neighbour } => {
                write!(
                    f,
                    "add neighbour {} to device {}",
                    neighbour.address, neighbour.ifindex
                )
            }
            Self::SetLinkUp { ifindex } => write!(f, "set device {ifindex} up"),
            Self::AddGuestRoute { ifindex, guest } => {
                write!(f, "route guest {guest} to device {ifindex}")
            }
            Self::SetLinkDown { ifindex } => write!(f, "set device {ifindex} down"),
            Self::Port(step) => write!(f, "{step}"),
            Self::OpenHostPort { port } => write!(f, "open port {port} of the host to guests"),
            Self::CloseHostPort { port } => write!(f, "close port {port} of the host to guests"),
            Self::ClearInterface { slot } => write!(f, "clear interface record {slot}"),
            Self::DetachTap { ifindex } => {
                write!(f, "detach from_vm and to_vm from device {ifindex}")
            }
            Self::RemoveLink { name, ifindex, .. } => write!(f, "remove TAP {name} ({ifindex})"),
            Self::RemoveSeveredPin { name } => write!(f, "remove pin {name}, whose device is gone"),
            Self::CollectFlows => write!(f, "remove flows and counters without an interface"),
            Self::UnloadDatapath => write!(f, "remove every pin, and with them programs and maps"),
        }
    }
}

/// The first bytes of a policy's name.
pub(crate) struct Short(pub(crate) PolicyId);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

/// A policy and how many networks it names.
struct Size<'a>(&'a Compiled);

impl fmt::Display for Size<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(policy) = self;
        // Both families have an entry that says what holds elsewhere.
        let networks = (policy.v4.len() + policy.v6.len()).saturating_sub(2);
        write!(f, "{} ({networks} networks)", Short(policy.id))
    }
}

/// A TAP with everything that it is made with.
struct Whole<'a>(&'a TapSpec);

impl fmt::Display for Whole<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(tap) = self;
        write!(
            f,
            "{} ({}, {}, queues {}, MTU {})",
            tap.name,
            tap.ifindex,
            Principals(tap),
            tap.queues,
            tap.mtu
        )
    }
}

/// Who may open a TAP.
struct Principals<'a>(&'a TapSpec);

impl fmt::Display for Principals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.owner, self.0.group) {
            (None, None) => write!(f, "owner 0:0"),
            (Some(owner), None) => write!(f, "owner {owner}"),
            (None, Some(group)) => write!(f, "group {group}"),
            (Some(owner), Some(group)) => write!(f, "owner {owner}:{group}"),
        }
    }
}

impl fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Uplink => {
                write!(f, "through device {}", self.ifindex)?;
                if let Some(next_hop) = self.next_hop {
                    write!(f, " by {next_hop}")?;
                }
                if let Some(source) = self.source {
                    write!(f, " as {source}")?;
                }
                write!(f, ", MTU {}", self.mtu)
            }
            RouteKind::Host => write!(f, "denied: the host's own"),
            RouteKind::Instance => write!(f, "denied: instances"),
            RouteKind::AlwaysDenied => write!(f, "denied always"),
            RouteKind::NotUplink => write!(f, "denied: not through an uplink"),
            RouteKind::Unreachable => write!(f, "denied: unreachable"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_that_makes_a_tap_names_who_may_open_it() {
        let text = |owner, group| {
            let tap = TapSpec {
                name: "tap0".to_owned(),
                ifindex: 65_536,
                owner,
                group,
                queues: 1,
                mtu: 1_500,
                v6: false,
                alias: String::new(),
                lent: false,
            };
            Step::CreateTap { tap }.to_string()
        };
        assert!(text(None, None).contains(", owner 0:0,"));
        assert!(text(Some(1000), None).contains(", owner 1000,"));
        assert!(text(None, Some(36)).contains(", group 36,"));
        assert!(text(Some(1000), Some(36)).contains(", owner 1000:36,"));
    }
}
