//! Published and exposed ports of instances: who may have which (N-3), and the sockets that hold them.

use std::collections::BTreeSet;

use netagent_common::publish::{EXPOSED_MAX, PUBLISHED_MAX, SENDERS_MAX};

mod lead;

pub use lead::PublishedState;

use crate::access::Caller;
use crate::agent::decide::Batch;
use crate::agent::registry::Key;
use crate::agent::{Agent, RequestError};
use crate::host::{Host, one_line};
use crate::instance::{Instance, Publication};
use crate::publish::{Aim, ReserveError};
use crate::spec::publish::{HostPort, PortsSpec, PublishedPort};
use crate::store::Change;

/// Searches for the owners of ports for one request, and in one pass: each takes a moment, in which nobody is answered.
const SEARCHES_MAX: usize = 4;

/// Bytes of ports that the audit names for one change; all of them are ASCII.
const DETAIL_MAX: usize = 2_000;

impl<H: Host> Agent<H> {
    /// Why an instance cannot have these ports; `own` is the one that has others until now.
    pub(crate) fn refuse_ports(
        &mut self,
        caller: &Caller,
        asked: &PortsSpec,
        own: Option<Key>,
        refusals: &mut Vec<RequestError>,
    ) {
        let mut searches = 0;
        for port in &asked.published {
            let refusal = self.refuse_port(caller, &port.at, own);
            refusals
                .extend(refusal.map(|refusal| self.with_owner(&port.at, refusal, &mut searches)));
        }
        if *asked != PortsSpec::default() {
            self.refuse_many(caller, asked, own, refusals);
        }
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
        self.host.reserve(at).err().map(RequestError::Port)
    }

    /// The error, with who has the port where a process has it.
    fn with_owner(
        &mut self,
        at: &HostPort,
        error: RequestError,
        searches: &mut usize,
    ) -> RequestError {
        let RequestError::Port(ReserveError::InUse(port)) = error else {
            return error;
        };
        if *searches == SEARCHES_MAX {
            return error;
        }
        *searches += 1;
        let owner = self.host.owner(at);
        owner.map_or(error, |owner| RequestError::PortTaken { port, owner })
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
    pub(crate) async fn take_ports(
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
                let held = self.hold(&port.at).await;
                held.map_err(RequestError::Port)
                    .map_err(|error| self.with_owner(&port.at, error, &mut 0))?;
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
    async fn hold(&mut self, at: &HostPort) -> Result<(), ReserveError> {
        if self.listeners.has(at) {
            return Ok(());
        }
        // One that is held and not the same is what the instance had until now.
        self.listeners.retain(|held| !held.clashes(at));
        self.listeners.settle().await;
        let reserved = self.host.reserve(at)?;
        let held = self.listeners.hold(*at, reserved);
        held.map_err(|source| ReserveError::Failed {
            port: at.number(),
            source,
        })
    }

    /// Replaces the ports of an instance (P-9): flows that may not go on are judged again, by the policy generation.
    pub(crate) async fn decide_publish(
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
        self.take_ports(&mut instance, &asked, batch).await?;
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
    pub(crate) async fn follow_ports(&mut self) {
        self.follow_ports_of(&self.registry.keys()).await;
    }

    /// Gives back what no instance publishes any more, and sees to the ports of these.
    pub(crate) async fn follow_ports_of(&mut self, keys: &[Key]) {
        self.forget_ports();
        self.listeners.settle().await;
        let held = keys.iter().filter_map(|key| self.registry.get(*key));
        let wanted: Vec<(HostPort, Option<Aim>)> = held
            .map(|held| &held.instance)
            .flat_map(|one| one.publications.iter().map(move |port| (one, &port.port)))
            .map(|(instance, port)| (port.at, self.aim(instance, port)))
            .collect();
        let mut searches = 0;
        for (at, aim) in wanted {
            if !self.listeners.has(&at) {
                self.try_hold(&at, &mut searches).await;
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
    async fn try_hold(&mut self, at: &HostPort, searches: &mut usize) {
        let known = self.port_trouble.contains_key(at);
        let reason = match self.hold(at).await {
            Ok(()) => {
                self.port_trouble.remove(at);
                return;
            }
            Err(_) if known => return,
            Err(error) => one_line(&self.with_owner(at, RequestError::Port(error), searches)),
        };
        tracing::warn!(port = %at, reason, "a published port is not held, and tried again");
        self.port_trouble.insert(*at, reason);
    }
}

/// Whether an instance publishes exactly this port of the host.
fn publishes_at(instance: &Instance, at: &HostPort) -> bool {
    instance.publications.iter().any(|one| one.port.at == *at)
}

/// The ports of an instance, for the audit, which grows for ever: not more of them than a line holds.
fn described(instance: &Instance) -> String {
    let published = instance.publications.iter().map(|one| one.port.to_string());
    let exposed = instance.exposed.iter().map(|one| format!("exposed {one}"));
    let all: Vec<String> = published.chain(exposed).collect();
    let mut text = all.join("; ");
    if text.len() > DETAIL_MAX {
        text.truncate(DETAIL_MAX);
        text.push_str("...");
    }
    text
}
