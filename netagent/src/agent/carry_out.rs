//! Brings instances about after they were committed: what is no longer wanted goes, what is wanted comes.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::agent::registry::{Held, Key};
use crate::agent::{Agent, fault};
use crate::host::{Host, Place, one_line};
use crate::instance::{Before, Instance, Interface, Life, Origin};
use crate::plan::{self, Owner};
use crate::store::Change;

/// Interfaces that are looked at one by one. For each the kernel walks through all its routes: of more than these,
/// one look at everything is sooner done, and thousands would keep all requests waiting for seconds.
pub(crate) const ALONE_MAX: usize = 128;

impl<H: Host> Agent<H> {
    /// Observes, plans and applies for some instances alone (S-1). What fails is noted and tried again.
    pub(crate) async fn carry_out(&mut self, keys: &[Key]) {
        let keys: BTreeSet<Key> = keys.iter().copied().collect();
        if keys.is_empty() {
            return;
        }
        // Custom addresses stand in the route map as instances', before their TAP is up (P-4, P-5).
        let custom = self.each(&keys).any(|(_, held)| has_custom(&held.instance));
        let peers = self.with_peers(&keys);
        let keys = self.without_waiting(&peers, &keys);
        self.follow_denied(keys.iter().copied());
        self.permit(keys.iter().copied());
        let observed = self.observe_instances(&peers).await;
        if let Some(reason) = observed {
            return keys
                .iter()
                .for_each(|key| self.registry.note(*key, Some(reason.clone())));
        }
        if custom {
            self.host_round().await;
        }
        self.turn_legs(&peers).await;
        self.take_down(&keys).await;
        self.bring_up(&keys).await;
        self.tell_of(keys.iter().copied());
        let deleted = self.settled_deletes(&keys);
        self.forget(&deleted);
        if custom && !deleted.is_empty() {
            self.host_round().await;
        }
        self.host.settle().await;
    }

    /// Peers that failed have their own time, save those that are asked for.
    fn without_waiting(&self, peers: &BTreeSet<Key>, asked: &BTreeSet<Key>) -> BTreeSet<Key> {
        let troubled = self.registry.troubled(Instant::now());
        let waiting = troubled.filter(|(key, due)| !due && !asked.contains(key));
        let waiting: BTreeSet<Key> = waiting.map(|(key, _)| key).collect();
        peers.difference(&waiting).copied().collect()
    }

    /// Before a relay goes, nothing is led to it any more, whatever else is wrong with its clients.
    async fn turn_legs(&mut self, keys: &BTreeSet<Key>) {
        let has_relay = |held: &Held| {
            held.instance
                .interfaces
                .iter()
                .any(|one| one.relay.is_some())
        };
        let clients = self.each(keys).filter(|(_, held)| has_relay(held));
        let clients: Vec<&Instance> = clients.map(|(_, held)| &held.instance).collect();
        if clients.is_empty() {
            return;
        }
        let wanted = self.wanted(clients.into_iter());
        let plan = plan::plan_turned(&wanted, &self.observed);
        // What failed was said, and is in the next plan again.
        self.apply(plan, &BTreeSet::new(), None).await;
    }

    /// Why the host could not be read.
    async fn observe_instances(&mut self, keys: &BTreeSet<Key>) -> Option<String> {
        let places: Vec<Place> = self
            .each(keys)
            .flat_map(|(_, held)| self.places_of(&held.instance))
            .collect();
        let looked = if places.len() > ALONE_MAX {
            let everything = self.host.observe().await;
            everything.map(|observed| self.observed = observed)
        } else {
            self.host
                .observe_interfaces(&mut self.observed, &places)
                .await
        };
        looked.err().map(|error| one_line(&error))
    }

    pub(crate) fn place(interface: &Interface) -> Place {
        Place {
            tap_name: interface.tap_name.clone(),
            ifindex: interface.ifindex,
            slot: Some(interface.slot),
        }
    }

    async fn take_down(&mut self, keys: &BTreeSet<Key>) {
        let unwanted: Vec<Key> = self
            .each(keys)
            .filter(|(_, held)| held.instance.life != Life::Running)
            .map(|(key, _)| key)
            .collect();
        if unwanted.is_empty() {
            return;
        }
        let interfaces = || {
            let held = unwanted.iter().filter_map(|key| self.registry.get(*key));
            held.flat_map(|held| &held.instance.interfaces)
        };
        let aliases = interfaces().map(|one| self.alias_of(one)).collect();
        let slots = interfaces().flat_map(Interface::slots).collect();
        let lent = self.lent(interfaces());
        let plan = plan::plan_stop(&aliases, &slots, &lent, &self.observed);
        let failure = self
            .apply(plan, &BTreeSet::new(), None)
            .await
            .failures
            .remove(&Owner::Leftover);
        for key in unwanted {
            self.registry.note(key, failure.clone());
        }
    }

    async fn bring_up(&mut self, keys: &BTreeSet<Key>) {
        let started: Vec<(Key, u32)> = self
            .each(keys)
            .filter(|(_, held)| held.instance.life == Life::Running)
            .map(|(key, held)| (key, held.instance.number()))
            .collect();
        if started.is_empty() {
            return;
        }
        let instances = started
            .iter()
            .filter_map(|(key, _)| self.registry.get(*key));
        let wanted = self.wanted(instances.map(|held| &held.instance));
        let plan = plan::plan_start(&wanted, &self.observed);
        let blocked = self.host_blocked.clone();
        let mut outcome = self.apply(plan, &BTreeSet::new(), blocked).await;
        for (key, number) in started {
            let failure = outcome.failures.remove(&Owner::Instance(number));
            self.registry
                .note(key, failure.or_else(|| outcome.blocked.clone()));
        }
    }

    /// Those being deleted of which nothing is left on the host.
    pub(crate) fn settled_deletes(&self, keys: &BTreeSet<Key>) -> Vec<Key> {
        self.each(keys)
            .filter(|(_, held)| held.instance.life == Life::Deleting && held.trouble.is_none())
            .map(|(key, _)| key)
            .collect()
    }

    /// The second transaction of a delete (S-4): what they reserved is free.
    pub(crate) fn forget(&mut self, keys: &[Key]) {
        let held = keys.iter().filter_map(|key| self.registry.get(*key));
        let changes: Vec<Change> = held.map(|held| Change::Remove(held.instance.id)).collect();
        if changes.is_empty() {
            return;
        }
        fault::boundary();
        if let Err(error) = self.store.commit(&changes) {
            let reason = error.to_string();
            // Trouble that is noted is tried again, and so are they.
            tracing::error!(
                reason,
                "deleted instances keep their reservations until the store can be written"
            );
            return keys
                .iter()
                .for_each(|key| self.registry.note(*key, Some(reason.clone())));
        }
        fault::boundary();
        for key in keys {
            self.release(*key);
        }
    }

    /// Takes an instance out of memory, with its reservations.
    pub(crate) fn release(&mut self, key: Key) {
        if let Some(held) = self.registry.remove(key) {
            self.silence(&held.instance);
            self.give_back(&held.instance.interfaces);
            if !held.instance.publications.is_empty() {
                self.forget_ports();
            }
        }
    }

    fn each(&self, keys: &BTreeSet<Key>) -> impl Iterator<Item = (Key, &Held)> {
        keys.iter()
            .filter_map(|key| Some((*key, self.registry.get(*key)?)))
    }

    pub(crate) fn alias_of(&self, interface: &Interface) -> String {
        match interface.origin {
            Origin::Pool | Origin::Custom => self.alias(interface.id),
            Origin::Existing(_) => self.lent_alias(interface.id),
        }
    }

    /// How existing TAPs of these interfaces are to be given back, by the alias that they carry now.
    pub(crate) fn lent<'a>(
        &self,
        interfaces: impl Iterator<Item = &'a Interface>,
    ) -> BTreeMap<String, Before> {
        let lent = interfaces.filter_map(|interface| match &interface.origin {
            Origin::Pool | Origin::Custom => None,
            Origin::Existing(before) => Some((self.lent_alias(interface.id), before.clone())),
        });
        lent.collect()
    }

    /// How every existing TAP is to be given back.
    pub(crate) fn all_lent(&self) -> BTreeMap<String, Before> {
        let instances = self.registry.all().map(|(_, held)| &held.instance);
        self.lent(instances.flat_map(|instance: &Instance| &instance.interfaces))
    }
}

pub(crate) fn has_custom(instance: &Instance) -> bool {
    instance
        .interfaces
        .iter()
        .any(|interface| interface.origin != Origin::Pool)
}
