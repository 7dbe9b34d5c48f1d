//! Where published ports should lead now, and what is shown of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::agent::Agent;
use crate::agent::registry::Key;
use crate::agent::uplink::MTU_MIN_V6;
use crate::host::Host;
use crate::instance::{Instance, Life};
use crate::plan::publish::{Exposure, Ports, PublishedAt, PublishedTo, Sender};
use crate::policy::Compiled;
use crate::publish::{Aim, ReserveError};
use crate::spec::publish::PublishedPort;

/// What is shown of a published port.
#[derive(Clone, Debug)]
pub struct PublishedState {
    /// What leads where.
    pub port: PublishedPort,
    /// Why it does not work, where it does not.
    pub waiting: Option<String>,
}

impl<H: Host> Agent<H> {
    /// Where a published port leads: nowhere unless its instance runs.
    pub(super) fn aim(&self, instance: &Instance, port: &PublishedPort) -> Option<Aim> {
        let primary = instance.interfaces.first()?;
        let v6 = self.primary_v6(instance);
        (instance.life == Life::Running).then(|| Aim {
            instance: instance.number(),
            generation: instance.generation,
            guest_v4: (primary.guest_v4.addr(), port.guest_port).into(),
            guest_v6: v6.map(|guest| SocketAddr::from((guest, port.guest_port))),
            allow_from: port.allow_from.clone(),
            policy: self.policy_towards(instance),
        })
    }

    /// The policy by which the agent's own sockets judge who comes to an instance; in audit mode they let pass.
    fn policy_towards(&self, instance: &Instance) -> Option<Arc<Compiled>> {
        let held = self.registry.by_number(instance.number())?;
        held.compiled.clone().filter(|_| !instance.policy.audit)
    }

    /// IPv6 address of the interface that published ports lead to, where it has IPv6 now.
    fn primary_v6(&self, instance: &Instance) -> Option<Ipv6Addr> {
        let primary = instance.interfaces.first()?;
        let has_v6 = self.mtu_of(primary) >= MTU_MIN_V6;
        primary.guest_v6.filter(|_| has_v6).map(|net| net.addr())
    }

    /// The ports that should be in the datapath for an instance that runs. They lead to its first interface (I-4).
    pub(crate) fn wanted_ports(&self, instance: &Instance) -> Ports {
        let mut ports = Ports::default();
        for publication in &instance.publications {
            let port = &publication.port;
            for (address, guest) in self.places(instance, port) {
                let at = PublishedAt {
                    address,
                    port: port.at.port,
                    protocol: port.at.protocol,
                };
                let to = PublishedTo {
                    id: publication.id,
                    slot: instance.number_towards(),
                    generation: instance.generation,
                    guest,
                    guest_port: port.guest_port,
                    limited: port.allow_from.is_some(),
                };
                ports.published.insert(at, to);
            }
            let (id, networks) = (publication.id, port.allow_from.iter().flatten());
            let senders = networks.map(|network| Sender {
                id,
                network: *network,
            });
            ports.senders.extend(senders);
        }
        let instance_number = instance.number_towards();
        let exposed = instance.exposed.iter().map(|port| Exposure {
            instance: instance_number,
            port: *port,
        });
        ports.exposed = exposed.map(|one| (one, instance.generation)).collect();
        ports
    }

    /// Addresses of the host on which a port is published now, and the guest's for each.
    fn places(&self, instance: &Instance, port: &PublishedPort) -> BTreeMap<IpAddr, IpAddr> {
        let v4 = instance.interfaces.first();
        let v4 = v4.map(|primary| IpAddr::V4(primary.guest_v4.addr()));
        let v6 = self.primary_v6(instance).map(IpAddr::V6);
        let every = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let addresses = match &port.at.address {
            None => &every[..],
            Some(address) if self.has_address(*address) => std::slice::from_ref(address),
            Some(_) => &[],
        };
        let guest = |address: &IpAddr| if address.is_ipv4() { v4 } else { v6 };
        let places = addresses.iter();
        places
            .filter_map(|address| Some((*address, guest(address)?)))
            .collect()
    }

    /// Whether the host has this address now.
    fn has_address(&self, address: IpAddr) -> bool {
        let mut links = self.observed.links.values();
        let of = |link: &crate::plan::ObservedLink| {
            let mut addresses = link.addresses.iter();
            addresses.any(|own| own.addr() == address)
        };
        address.is_loopback() || links.any(of)
    }

    /// These instances, and those that publish on one address alone: it may have come or gone.
    pub(crate) fn with_addressed_ports(&self, mut keys: Vec<Key>) -> Vec<Key> {
        let addressed = self.registry.all().filter(|(_, held)| {
            let ports = held.instance.publications.iter();
            let mut addresses = ports.filter_map(|one| one.port.at.address);
            held.instance.life == Life::Running && addresses.any(|one| !one.is_loopback())
        });
        keys.extend(addressed.map(|(key, _)| key));
        keys
    }

    /// What is shown of the published ports of an instance.
    pub(crate) fn published_states(&self, instance: &Instance) -> Vec<PublishedState> {
        let ports = instance.publications.iter().map(|one| &one.port);
        ports
            .map(|port| PublishedState {
                port: port.clone(),
                waiting: self.waits_for(instance, port),
            })
            .collect()
    }

    fn waits_for(&self, instance: &Instance, port: &PublishedPort) -> Option<String> {
        if instance.life != Life::Running {
            return Some("the instance does not run".to_owned());
        }
        let places = self.places(instance, port);
        let there = self.observed.datapath.as_ref();
        let there = there.map(|datapath| &datapath.ports.published);
        let written = |address: &IpAddr| {
            let at = PublishedAt {
                address: *address,
                port: port.at.port,
                protocol: port.at.protocol,
            };
            there.is_some_and(|published| published.contains_key(&at))
        };
        match port.at.address {
            Some(address) if !self.has_address(address) => {
                Some(ReserveError::NotOurs(address).to_string())
            }
            Some(_) if places.is_empty() => Some("the guest has no IPv6".to_owned()),
            _ if !places.keys().all(written) => Some("the host does not lead it yet".to_owned()),
            _ => self.port_trouble.get(&port.at).cloned(),
        }
    }
}
