//! Relays: who is whose, which are refused, and whether one is there.

use std::collections::BTreeSet;

use crate::access::{AccountName, Caller};
use crate::agent::registry::Key;
use crate::agent::{Agent, RequestError};
use crate::host::{Host, Place};
use crate::instance::{Instance, Interface, Life};
use crate::plan::legs;
use crate::spec::name::Name;
use crate::spec::{InstanceSpec, InterfaceSpec, SpecError, relay};

/// What is shown of the relay of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayState {
    /// Name of its interface.
    pub name: Name,
    /// Whether DNS goes there too.
    pub dns: bool,
    /// Whether it is there, and why not: only in an inspection.
    pub inspected: Option<Result<(), String>>,
}

impl<H: Host> Agent<H> {
    /// relays that do not exist, or would be clients of others, whichever came first.
    pub(crate) fn refuse_relays(
        &self,
        caller: &Caller,
        spec: &InstanceSpec,
        refusals: &mut Vec<RequestError>,
    ) {
        let account = &caller.account;
        let is_own = |name: &Name| {
            spec.interfaces
                .iter()
                .any(|one| one.name.as_ref() == Some(name))
        };
        for (index, interface) in spec.interfaces.iter().enumerate() {
            let Some(relay) = &interface.relay else {
                continue;
            };
            let is_waited_for = name_of(spec, index, interface)
                .is_some_and(|name| self.registry.has_clients(account, &name));
            if is_own(&relay.name) || is_waited_for || !self.can_be_relay(account, &relay.name) {
                let refusal = SpecError::Relay(relay.name.to_string());
                refusals.push(RequestError::Spec(refusal));
            }
        }
    }

    /// A gateway that is the relay's own address: names asked there would end in the relay's VM, which no client may
    /// reach.
    pub(crate) fn refuse_gateway(
        &self,
        caller: &Caller,
        spec: &InstanceSpec,
    ) -> Option<RequestError> {
        let gateway = spec.gateway?;
        let relays = spec.interfaces.iter().filter_map(|one| one.relay.as_ref());
        let mut relays =
            relays.filter_map(|relay| self.registry.interface(&caller.account, &relay.name));
        let (_, relay) = relays.find(|(_, relay)| relay.guest_v4.addr() == gateway)?;
        Some(RequestError::Invalid(format!(
            "gateway {gateway} is the address of the relay '{}', which stays closed to its clients: leave the gateway out, \
             or name an address that no instance has",
            relay.name
        )))
    }

    /// Whether other instances have an interface of this one as their relay.
    pub(crate) fn is_relay(&self, instance: &Instance) -> bool {
        let mut interfaces = instance.interfaces.iter();
        interfaces.any(|one| self.registry.has_clients(&instance.account, &one.name))
    }

    fn can_be_relay(&self, account: &AccountName, name: &Name) -> bool {
        let found = self.registry.interface(account, name);
        found.is_some_and(|(_, interface)| interface.relay.is_none())
    }

    /// Why an instance cannot be deleted: the relay of others would be gone.
    pub(crate) fn refuse_delete(&self, instance: &Instance) -> Option<RequestError> {
        let interfaces = instance.interfaces.iter();
        let used = interfaces.filter_map(|interface| {
            let clients: Vec<String> = self
                .registry
                .clients(&instance.account, &interface.name)
                .map(|(_, of, client)| format!("'{}' of instance '{}'", client.name, of.name))
                .collect();
            let clients = (!clients.is_empty()).then(|| clients.join(", "))?;
            Some(format!("'{}' is the relay of {clients}", interface.name))
        });
        let used: Vec<String> = used.collect();
        (!used.is_empty()).then(|| RequestError::RelayInUse(used.join("; ")))
    }

    /// These instances, the relays of their interfaces, and those that have them as relays (S-1).
    pub(crate) fn with_peers(&self, keys: &BTreeSet<Key>) -> BTreeSet<Key> {
        let mut all = self.with_clients(keys);
        let held = keys.iter().filter_map(|key| self.registry.get(*key));
        for instance in held.map(|held| &held.instance) {
            let interfaces = instance.interfaces.iter();
            let relays = interfaces.filter_map(|interface| self.relay_of(instance, interface));
            all.extend(relays.map(|(key, _)| key));
        }
        all
    }

    /// These instances, and those that have them as relays.
    pub(crate) fn with_clients(&self, keys: &BTreeSet<Key>) -> BTreeSet<Key> {
        let mut all = keys.clone();
        let held = keys.iter().filter_map(|key| self.registry.get(*key));
        for instance in held.map(|held| &held.instance) {
            for interface in &instance.interfaces {
                let clients = self.registry.clients(&instance.account, &interface.name);
                all.extend(clients.map(|(key, _, _)| key));
            }
        }
        all
    }

    /// The interface that is the relay of this one, as long as there is such a one.
    pub(crate) fn relay_of(
        &self,
        instance: &Instance,
        interface: &Interface,
    ) -> Option<(Key, &Interface)> {
        let relay = interface.relay.as_ref()?;
        self.registry.interface(&instance.account, &relay.name)
    }

    /// As [`Agent::relay_of`], while its instance runs.
    pub(crate) fn running_relay(
        &self,
        instance: &Instance,
        interface: &Interface,
    ) -> Option<&Interface> {
        let (key, relay) = self.relay_of(instance, interface)?;
        let runs = self.registry.get(key)?.instance.life == Life::Running;
        runs.then_some(relay)
    }

    /// Where the interfaces of an instance are, and their legs: those on their relays' TAPs.
    pub(crate) fn places_of(&self, instance: &Instance) -> Vec<Place> {
        let mut places = Vec::new();
        for interface in &instance.interfaces {
            places.push(Self::place(interface));
            if let Some(relay) = &interface.relay {
                let at = self.relay_of(instance, interface);
                places.push(Place {
                    slot: Some(relay.leg),
                    ..Self::place(at.map_or(interface, |(_, at)| at))
                });
            }
        }
        places
    }

    /// What is shown of the relay of an interface, by the last observation where it is an inspection.
    pub(crate) fn relay_state(
        &self,
        instance: &Instance,
        interface: &Interface,
        inspected: bool,
    ) -> Option<RelayState> {
        let relay = interface.relay.as_ref()?;
        let status = || match self.why_down(instance, interface) {
            None => Ok(()),
            Some(reason) => Err(reason),
        };
        Some(RelayState {
            name: relay.name.clone(),
            dns: relay::takes_dns(relay.dns, &instance.policy),
            inspected: inspected.then(status),
        })
    }

    /// Why nothing passes the relay of an interface.
    pub(crate) fn why_down(&self, instance: &Instance, interface: &Interface) -> Option<String> {
        let own = interface.relay.as_ref()?;
        let name = &own.name;
        let Some((key, relay)) = self.relay_of(instance, interface) else {
            return Some(format!("there is no network interface '{name}'"));
        };
        let of = &self.registry.get(key)?.instance;
        if of.life != Life::Running {
            return Some(format!("instance '{}' does not run", of.name));
        }
        if legs::is_there(relay.ifindex, &self.observed) {
            let waits = instance.life == Life::Running && !self.leads_to(own.leg, relay.ifindex);
            return waits.then(|| {
                format!("network interface '{name}' has just come: it is in use in a moment")
            });
        }
        let tap = &relay.tap_name;
        let link = self.observed.links.get(&relay.ifindex);
        Some(match link {
            None => format!("TAP device '{tap}' of instance '{}' is gone", of.name),
            Some(link) if link.up => {
                format!("no VMM holds TAP device '{tap}' of instance '{}'", of.name)
            }
            Some(_) => format!("TAP device '{tap}' of instance '{}' is not up", of.name),
        })
    }

    /// Whether the leg in force leads to this TAP.
    fn leads_to(&self, leg: u32, ifindex: u32) -> bool {
        let datapath = self.observed.datapath.as_ref();
        let leg = datapath.and_then(|datapath| datapath.interfaces.get(&leg));
        leg.is_some_and(|leg| leg.ifindex == ifindex)
    }

    /// The interfaces that have this one as their relay.
    pub(crate) fn clients_of(&self, instance: &Instance, interface: &Interface) -> Vec<Name> {
        let clients = self.registry.clients(&instance.account, &interface.name);
        clients.map(|(_, _, client)| client.name.clone()).collect()
    }
}

/// The name that an interface asks for or, where its instance does and it is free, gets by that. One that is made up gives way
/// to others.
fn name_of(spec: &InstanceSpec, index: usize, interface: &InterfaceSpec) -> Option<Name> {
    let made = || Some(Name::for_interface(spec.name.as_ref()?, index, 0));
    interface.name.clone().or_else(made)
}
