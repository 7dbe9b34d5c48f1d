//! Published and exposed ports of instances: who may have which, what should exist for them, and what is shown (N-3).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netagent_common::publish::{EXPOSED_MAX, PUBLISHED_MAX, SENDERS_MAX};

use crate::access::Caller;
use crate::agent::decide::Batch;
use crate::agent::registry::Key;
use crate::agent::uplink::MTU_MIN_V6;
use crate::agent::{Agent, RequestError};
use crate::host::{Host, one_line};
use crate::instance::{Instance, Life, Publication};
use crate::plan::publish::{Exposure, Ports, PublishedAt, PublishedTo, Sender};
use crate::publish::{Aim, ReserveError};
use crate::spec::publish::{HostPort, PortsSpec, PublishedPort};
use crate::store::Change;

/// Searches for the owners of ports in one pass: each takes a moment, in which nobody is answered.
const SEARCHES_MAX: usize = 4;

/// What is shown of a published port.
#[derive(Clone, Debug)]
pub struct PublishedState {
    /// What leads where.
    pub port: PublishedPort,
    /// Why it does not work, where it does not.
    pub waiting: Option<String>,
}

impl<H: Host> Agent<H> {
    /// Why an instance cannot have these ports; `own` is the one that has others until now.
    pub(crate) fn refuse_ports(
        &mut self,
        caller: &Caller,
        asked: &PortsSpec,
        own: Option<Key>,
        refusals: &mut Vec<RequestError>,
    ) {
        for port in &asked.published {
            refusals.extend(self.refuse_port(caller, &port.at, own));
        }
        self.refuse_many(caller, asked, own, refusals);
    }

    fn refuse_port(
        &mut self,
        caller: &Caller,
        at: &HostPort,
        own: Option<Key>,
    ) -> Option<RequestError> {
        let port = at.number();
        let (open, nat) = (self.config.publish.ports, self.config.nat.ports);
        if !open.contains(at.port) {
            return Some(RequestError::PortOutside { port, range: open });
        }
        if nat.contains(at.port) {
            return Some(RequestError::PortOfNat { port, range: nat });
        }
        if let Some(held) = self.registry.clashing(at, own) {
            let instance = &held.instance;
            // The names of other accounts are nobody's business.
            let owner = if instance.account == caller.account {
                format!("instance \"{}\"", instance.name)
            } else {
                "another account's instance".to_owned()
            };
            return Some(RequestError::PortTaken { port, owner });
        }
        if self.listeners.clash(at) || self.registry.has_port(at) {
            // Its own until now, or in this moment given back by another.
            return None;
        }
        let reserved = self.host.reserve(at);
        reserved.err().map(|error| self.with_owner(at, error))
    }

    /// The error, with who has the port.
    fn with_owner(&mut self, at: &HostPort, error: ReserveError) -> RequestError {
        match error {
            ReserveError::InUse(port) => match self.host.owner(at) {
                Some(owner) => RequestError::PortTaken { port, owner },
                None => RequestError::Port(error),
            },
            ReserveError::NotOurs(_) | ReserveError::Failed { .. } => RequestError::Port(error),
        }
    }

    /// A-7, and the places in the maps of the datapath.
    fn refuse_many(
        &self,
        caller: &Caller,
        asked: &PortsSpec,
        own: Option<Key>,
        refusals: &mut Vec<RequestError>,
    ) {
        let others = self.registry.all().filter(|(key, _)| Some(*key) != own);
        let others = others.map(|(_, held)| &held.instance);
        let published = |one: &Instance| one.publications.len();
        if let Some(limit) = self.config.account(&caller.account).published_ports {
            let account = caller.account.clone();
            let same = others.clone().filter(|one| one.account == account);
            let count: usize = same.map(published).sum();
            if !asked.published.is_empty() && count + asked.published.len() > limit as usize {
                refusals.push(RequestError::AccountPortLimit { account, limit });
            }
        }
        let senders = |ports: &mut dyn Iterator<Item = &PublishedPort>| -> usize {
            ports
                .map(|port| port.allow_from.as_ref().map_or(0, BTreeSet::len))
                .sum()
        };
        let ports = others.clone().flat_map(|one| &one.publications);
        let counts = [
            (
                others.clone().map(published).sum(),
                asked.published.len(),
                ("published ports", PUBLISHED_MAX),
            ),
            (
                senders(&mut ports.map(|one| &one.port)),
                senders(&mut asked.published.iter()),
                ("networks that may use published ports", SENDERS_MAX),
            ),
            (
                others.map(|one| one.exposed.len()).sum(),
                asked.exposed.len(),
                ("exposed ports", EXPOSED_MAX),
            ),
        ];
        for (there, more, (what, max)) in counts {
            let there: usize = there;
            if more > 0 && there + more > max as usize {
                refusals.push(RequestError::PortPlaces { what, max });
            }
        }
    }

    /// Gives an instance its ports. Those that it had stay what they are; for the others the host's ports are taken now,
    /// before the commit, so that no other process gets between.
    pub(crate) fn take_ports(
        &mut self,
        instance: &mut Instance,
        asked: &PortsSpec,
        batch: &mut Batch,
    ) -> Result<(), RequestError> {
        let first = self.next_publication;
        let mut publications = Vec::new();
        for port in &asked.published {
            let mut before = instance.publications.iter();
            if let Some(same) = before.find(|before| before.port == *port) {
                publications.push(same.clone());
                continue;
            }
            batch.ports = true;
            // One that it had leads elsewhere or is for others from now on, and stays held, or waited for.
            if !publishes_at(instance, &port.at) {
                let held = self.hold(&port.at);
                held.map_err(|error| self.with_owner(&port.at, error))?;
            }
            let (id, port) = (self.next_publication, port.clone());
            self.next_publication = id.wrapping_add(1).max(1);
            publications.push(Publication { id, port });
        }
        if self.next_publication != first {
            let next = Change::NextPublication(self.next_publication);
            batch.changes.push(next);
        }
        instance.publications = publications;
        instance.exposed.clone_from(&asked.exposed);
        Ok(())
    }

    /// Holds a port of the host that no other instance has.
    fn hold(&mut self, at: &HostPort) -> Result<(), ReserveError> {
        if self.listeners.has(at) {
            return Ok(());
        }
        // One that is held and not the same is what the instance had until now.
        self.listeners.retain(|held| !held.clashes(at));
        let reserved = self.host.reserve(at)?;
        let held = self.listeners.hold(*at, reserved);
        held.map_err(|source| ReserveError::Failed {
            port: at.number(),
            source,
        })
    }

    /// Replaces the ports of an instance (P-9): flows that may not go on are judged again, by the policy generation.
    pub(crate) fn decide_publish(
        &mut self,
        caller: &Caller,
        name: &str,
        asked: PortsSpec,
        batch: &mut Batch,
    ) -> Result<Key, RequestError> {
        let key = self.find(caller, name)?;
        let held = self.held(key, name)?.clone();
        let mut refusals = Vec::new();
        self.refuse_ports(caller, &asked, Some(key), &mut refusals);
        if let Some(refusal) = refusals.into_iter().next() {
            return Err(refusal);
        }
        let mut instance = held.instance.clone();
        self.take_ports(&mut instance, &asked, batch)?;
        let before = &held.instance;
        if (&instance.publications, &instance.exposed) == (&before.publications, &before.exposed) {
            return Ok(key);
        }
        instance.policy_generation = instance.policy_generation.wrapping_add(1).max(1);
        batch.audit(
            caller,
            "publish",
            instance.name.as_str(),
            described(&instance),
        );
        let change = Change::Publish(Box::new(instance.clone()));
        batch.changes.push(change);
        self.change(key, held, instance, batch);
        Ok(key)
    }

    /// Holds the ports that instances publish and no others, and lets each lead where it should now.
    pub(crate) fn follow_ports(&mut self) {
        self.forget_ports();
        let instances = self.registry.all().map(|(_, held)| &held.instance);
        let wanted: Vec<(HostPort, Option<Aim>)> = instances
            .flat_map(|one| one.publications.iter().map(move |port| (one, &port.port)))
            .map(|(instance, port)| (port.at, self.aim(instance, port)))
            .collect();
        let mut searches = 0;
        for (at, aim) in wanted {
            if !self.listeners.has(&at) {
                self.try_hold(&at, &mut searches);
            }
            self.listeners.aim(&at, aim);
        }
    }

    /// Gives back what no instance publishes any more.
    pub(crate) fn forget_ports(&mut self) {
        let registry = &self.registry;
        self.listeners.retain(|at| registry.has_port(at));
        self.port_trouble.retain(|at, _| registry.has_port(at));
    }

    /// Somebody may have taken it while no agent ran.
    fn try_hold(&mut self, at: &HostPort, searches: &mut usize) {
        let known = self.port_trouble.contains_key(at);
        let reason = match self.hold(at) {
            Ok(()) => {
                self.port_trouble.remove(at);
                return;
            }
            Err(_) if known => return,
            Err(error) if *searches < SEARCHES_MAX => {
                *searches += 1;
                one_line(&self.with_owner(at, error))
            }
            Err(error) => one_line(&error),
        };
        tracing::warn!(port = %at, reason, "a published port is not held, and tried again");
        self.port_trouble.insert(*at, reason);
    }

    /// Where a published port leads: nowhere unless its instance runs.
    fn aim(&self, instance: &Instance, port: &PublishedPort) -> Option<Aim> {
        let primary = instance.interfaces.first()?;
        let v6 = self.primary_v6(instance);
        (instance.life == Life::Running).then(|| Aim {
            instance: instance.number(),
            generation: instance.generation,
            guest_v4: (primary.guest_v4.addr(), port.guest_port).into(),
            guest_v6: v6.map(|guest| SocketAddr::from((guest, port.guest_port))),
            allow_from: port.allow_from.clone(),
        })
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
        let Some(primary) = instance.interfaces.first() else {
            return ports;
        };
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
                    slot: primary.slot,
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
        let instance_number = instance.number();
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

/// Whether an instance publishes exactly this port of the host.
fn publishes_at(instance: &Instance, at: &HostPort) -> bool {
    instance.publications.iter().any(|one| one.port.at == *at)
}

/// The ports of an instance, for the audit.
fn described(instance: &Instance) -> String {
    let published = instance.publications.iter().map(|one| one.port.to_string());
    let exposed = instance.exposed.iter().map(|one| format!("exposed {one}"));
    published.chain(exposed).collect::<Vec<_>>().join("; ")
}
