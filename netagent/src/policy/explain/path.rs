//! Where a packet goes, or would go.

use std::net::IpAddr;

use netagent_common::policy::RouteKind;

use crate::policy::explain::Judge;

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// To the world.
    Uplink {
        /// Name of the uplink.
        name: String,
        /// Neighbour on the way; `None` where the destination itself is it.
        next_hop: Option<IpAddr>,
        /// The address under which it leaves.
        source: Option<IpAddr>,
    },
    /// To the agent's resolver, whatever the address is.
    Resolver,
    /// To the instance's own gateway.
    Gateway,
    /// To a port of the host that leads to an instance.
    Published {
        /// Its name; `None` where it is another account's.
        instance: Option<String>,
    },
    /// To a listener of the host that guests may reach.
    Listener,
    /// To the host.
    Host,
    /// To the guest itself.
    OwnAddress,
    /// To another instance, or its gateway.
    Instance,
    /// To an address that is never reached.
    AlwaysDenied(IpAddr),
    /// Where the host does not forward guests.
    NotUplink,
    /// Nowhere.
    NoRoute,
}

impl Judge<'_> {
    pub(super) fn path(&self) -> Path {
        if self.is_gateway() {
            return match self.host_port() {
                Some(_) => Path::Listener,
                None => Path::Gateway,
            };
        }
        if self.is_steered() {
            return Path::Resolver;
        }
        if self.is_own() {
            return Path::OwnAddress;
        }
        let (_, target) = self.route();
        match target.kind {
            RouteKind::Uplink => {
                let link = self.in_force.links.get(&target.ifindex);
                Path::Uplink {
                    name: link.map_or_else(|| "?".to_owned(), |link| link.name.clone()),
                    next_hop: target.next_hop,
                    source: self.snat().or(target.source),
                }
            }
            RouteKind::Host => match self.in_force.behind {
                Some(behind) => Path::Published {
                    instance: behind.name.map(str::to_owned),
                },
                None if self.host_port().is_some() => Path::Listener,
                None => Path::Host,
            },
            RouteKind::Instance => Path::Instance,
            RouteKind::AlwaysDenied => Path::AlwaysDenied(self.address),
            RouteKind::NotUplink => Path::NotUplink,
            RouteKind::Unreachable => Path::NoRoute,
        }
    }
}
