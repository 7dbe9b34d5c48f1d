//! What the servers of guests are told: who runs, and with what.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use netagent_common::net::GATEWAY_V6;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::agent::registry::Key;
use crate::host::Host;
use crate::instance::{Instance, Interface, Life};
use crate::services::{Forbidden, Guest, Servers, published_for_guests};
use crate::spec::policy::PolicySpec;

impl<H: Host> Agent<H> {
    /// Puts the servers to work on the sockets that were made for them; earlier ones end.
    pub(crate) fn start_servers(&mut self) {
        let Some(sockets) = self.host.take_sockets() else {
            return;
        };
        let learner = Arc::clone(&self.learned) as _;
        match Servers::start(sockets, &self.directory, learner, &self.upstreams) {
            Ok(servers) => self.servers = Some(servers),
            Err(error) => {
                tracing::error!(%error, "the servers of DHCP and DNS do not run");
                self.servers = None;
            }
        }
    }

    /// Tells the servers of these instances.
    pub(crate) fn tell_of(&self, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            if let Some(held) = self.registry.get(key) {
                self.tell(&held.instance);
            }
        }
    }

    /// Tells the resolver what the guests of these instances may ask for, before the datapath follows: what a shorter list
    /// closes is not to be opened anew by an answer meanwhile.
    pub(crate) fn permit(&self, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            let Some(held) = self.registry.get(key) else {
                continue;
            };
            let permission = held.instance.policy.permission();
            for slot in held.instance.interfaces.iter().flat_map(Interface::slots) {
                self.directory.permit(slot, &permission);
            }
        }
    }

    /// Tells the servers of every instance.
    pub(crate) fn tell_of_all(&mut self) {
        self.told = (self.mtu, self.leads_out_v6);
        self.tell_of(self.registry.keys());
    }

    /// Tells the guests of these instances unasked.
    pub(crate) fn greet(&self, keys: &[Key]) {
        let held = keys.iter().filter_map(|key| self.registry.get(*key));
        for interface in held.flat_map(|held| &held.instance.interfaces) {
            self.directory.greet(interface.slot);
        }
    }

    fn tell(&self, instance: &Instance) {
        self.follow_learned(instance);
        if instance.life != Life::Running {
            return self.silence(instance);
        }
        let told = self.guest_config(instance);
        for (interface, device) in instance.interfaces.iter().zip(told.interfaces) {
            let link = self.observed.links.get(&interface.ifindex);
            let guest = Guest {
                generation: instance.generation,
                instance: instance.number(),
                account: self.account_of(instance, interface),
                hostname: told.hostname.clone(),
                interface: device,
                nameserver: upstream_of(instance),
                gateway: instance.gateway,
                permission: instance.policy.permission(),
                attached: link.is_some_and(|link| link.carrier),
            };
            if let Some(relay) = &interface.relay {
                // Its queries that come by the relay. Nothing but an answer is ever sent that way.
                let attached = false;
                let guest = Guest {
                    attached,
                    ..guest.clone()
                };
                self.directory.put(relay.leg, Some(guest));
            }
            self.directory.put(interface.slot, Some(guest));
        }
    }

    /// Tells the resolver what no answer may lead to (D-6). The route map may be long: without `routes_changed` the one
    /// of before stays.
    pub(crate) fn tell_forbidden(&self, routes_changed: bool) {
        let Some(datapath) = &self.observed.datapath else {
            return;
        };
        let before = self.directory.forbidden().filter(|_| !routes_changed);
        let routes = before.map_or_else(
            || Arc::new(datapath.routes.clone()),
            |before| Arc::clone(before.routes()),
        );
        let private = self.compiler.compile(&PolicySpec::default());
        let mut published = published_for_guests(&datapath.ports, &self.guest_prefixes());
        if !self.config.policy.allow_host_ports.is_empty() {
            // Its listeners are at every address of the host.
            let everywhere: [IpAddr; 2] =
                [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
            published.extend(everywhere);
        }
        self.directory
            .forbid(Forbidden::new(routes, private, published));
    }

    /// Nobody in its slots is answered any more.
    pub(crate) fn silence(&self, instance: &Instance) {
        for slot in instance.interfaces.iter().flat_map(Interface::slots) {
            self.directory.put(slot, None);
        }
    }

    /// The addresses that the resolver asks: no guest may have one of them (I-8).
    pub(crate) fn resolvers(&self) -> Vec<IpAddr> {
        let servers = self.upstreams.servers(None, Instant::now());
        servers.iter().map(SocketAddr::ip).collect()
    }
}

/// The instance's own name server, unless that is the resolver itself at one of its gateways: it would ask itself.
fn upstream_of(instance: &Instance) -> Option<IpAddr> {
    let hosts = instance.interfaces.iter().map(|one| one.host_v4.addr());
    let mut gateways = hosts
        .chain(instance.gateway)
        .map(IpAddr::V4)
        .chain([IpAddr::V6(GATEWAY_V6.into())]);
    instance
        .nameserver
        .filter(|nameserver| !gateways.any(|gateway| gateway == *nameserver))
}
