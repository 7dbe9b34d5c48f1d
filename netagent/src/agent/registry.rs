//! The instances in memory, and everything that must be theirs alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::access::AccountName;
use crate::agent::vm_to_vm::Accounts;
use crate::instance::{Instance, Interface, Life};
use crate::policy::Compiled;
use crate::spec::name::Name;
use crate::spec::publish::HostPort;

/// The longest wait before a failed instance is tried again.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Names an instance in memory; they ascend in the order of creation.
pub(crate) type Key = u64;

/// An instance and what the last attempt to bring it about met.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) instance: Instance,
    /// Its policy, where it needs entries.
    pub(crate) compiled: Option<Arc<Compiled>>,
    pub(crate) trouble: Option<Trouble>,
}

impl Held {
    /// The same instance with other members; its policy is the same.
    pub(crate) fn with(&self, instance: Instance) -> Self {
        Self {
            instance,
            compiled: self.compiled.clone(),
            trouble: self.trouble.clone(),
        }
    }
}

/// What the last attempt met (I-20).
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) reason: String,
    pub(crate) failures: u32,
    pub(crate) retry_at: Instant,
}

/// All instances, with an index for every question that a request asks.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    instances: BTreeMap<Key, Held>,
    next: Key,
    ids: BTreeMap<Uuid, Key>,
    numbers: BTreeMap<u32, Key>,
    ifindexes: BTreeMap<u32, Key>,
    /// Names of what is being deleted are free (S-4).
    names: BTreeMap<(AccountName, Name), Key>,
    interface_names: BTreeMap<(AccountName, Name), Key>,
    /// Instances by the relays that their interfaces name, whether there are such relays or not.
    clients: BTreeMap<(AccountName, Name), BTreeSet<Key>>,
    accounts: Accounts,
    taps: BTreeSet<String>,
    macs: BTreeSet<[u8; 6]>,
    addresses: BTreeSet<IpAddr>,
    /// Published ports, those of what is being deleted too.
    ports: BTreeMap<HostPort, Key>,
}

impl Registry {
    /// Takes an instance in, behind all others.
    pub(crate) fn insert(&mut self, instance: Instance, compiled: Option<Arc<Compiled>>) -> Key {
        let key = self.next;
        self.next += 1;
        let held = Held {
            instance,
            compiled,
            trouble: None,
        };
        self.put(key, held);
        key
    }

    /// Puts `held` in the place of what `key` named. Compiled policies that say the same, and equal lists of names, are one
    /// in memory.
    pub(crate) fn put(&mut self, key: Key, mut held: Held) {
        self.remove(key);
        if let Some(compiled) = &mut held.compiled {
            let mut others = self
                .instances
                .values()
                .filter_map(|one| one.compiled.as_ref());
            if let Some(same) = others.find(|other| other.id == compiled.id) {
                *compiled = same.clone();
            }
        }
        if let Some(names) = &mut held.instance.policy.allowed_domains {
            let held = self.instances.values();
            let mut others = held.filter_map(|one| one.instance.policy.allowed_domains.as_ref());
            if let Some(same) = others.find(|other| *other == names) {
                *names = Arc::clone(same);
            }
        }
        let instance = &held.instance;
        self.ids.insert(instance.id, key);
        self.numbers.insert(instance.number(), key);
        self.accounts.add(&instance.account);
        if instance.life != Life::Deleting {
            let name = (instance.account.clone(), instance.name.clone());
            self.names.insert(name, key);
        }
        for interface in &instance.interfaces {
            if instance.life != Life::Deleting {
                let name = (instance.account.clone(), interface.name.clone());
                self.interface_names.insert(name, key);
                if let Some(relay) = &interface.relay {
                    let name = (instance.account.clone(), relay.name.clone());
                    self.clients.entry(name).or_default().insert(key);
                }
            }
            self.ifindexes.insert(interface.ifindex, key);
            self.taps.insert(interface.tap_name.clone());
            self.macs.insert(interface.mac);
            self.addresses.extend(addresses(interface));
        }
        for publication in &instance.publications {
            self.ports.insert(publication.port.at, key);
        }
        self.instances.insert(key, held);
    }

    /// Takes an instance out.
    pub(crate) fn remove(&mut self, key: Key) -> Option<Held> {
        let held = self.instances.remove(&key)?;
        let instance = &held.instance;
        self.ids.remove(&instance.id);
        self.numbers.remove(&instance.number());
        self.accounts.remove(&instance.account);
        let name = (instance.account.clone(), instance.name.clone());
        if self.names.get(&name) == Some(&key) {
            self.names.remove(&name);
        }
        for interface in &instance.interfaces {
            if instance.life != Life::Deleting {
                let name = (instance.account.clone(), interface.name.clone());
                self.interface_names.remove(&name);
            }
            if let Some(relay) = &interface.relay {
                let name = (instance.account.clone(), relay.name.clone());
                if let Some(clients) = self.clients.get_mut(&name) {
                    clients.remove(&key);
                    if clients.is_empty() {
                        self.clients.remove(&name);
                    }
                }
            }
            if self.ifindexes.get(&interface.ifindex) == Some(&key) {
                self.ifindexes.remove(&interface.ifindex);
            }
            self.taps.remove(&interface.tap_name);
            self.macs.remove(&interface.mac);
            for address in addresses(interface) {
                self.addresses.remove(&address);
            }
        }
        for publication in &instance.publications {
            if self.ports.get(&publication.port.at) == Some(&key) {
                self.ports.remove(&publication.port.at);
            }
        }
        Some(held)
    }

    pub(crate) fn get(&self, key: Key) -> Option<&Held> {
        self.instances.get(&key)
    }

    /// All, in the order of creation, those that are being deleted too.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Key, &Held)> + Clone {
        self.instances.iter().map(|(key, held)| (*key, held))
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        self.instances.keys().copied().collect()
    }

    /// By id or name, in one account; what is being deleted is not there any more.
    pub(crate) fn find(&self, account: &AccountName, key: &str) -> Option<Key> {
        let by_name = Name::parse(key)
            .and_then(|name| self.names.get(&(account.clone(), name)))
            .copied();
        by_name.or_else(|| {
            let id = Uuid::parse_str(key).ok()?;
            let found = *self.ids.get(&id)?;
            let instance = &self.instances.get(&found)?.instance;
            (instance.account == *account && instance.life != Life::Deleting).then_some(found)
        })
    }

    pub(crate) fn by_number(&self, number: u32) -> Option<&Held> {
        self.instances.get(self.numbers.get(&number)?)
    }

    pub(crate) fn key_of(&self, number: u32) -> Option<Key> {
        self.numbers.get(&number).copied()
    }

    pub(crate) fn by_ifindex(&self, ifindex: u32) -> Option<Key> {
        self.ifindexes.get(&ifindex).copied()
    }

    pub(crate) fn has_name(&self, account: &AccountName, name: &Name) -> bool {
        self.names.contains_key(&(account.clone(), name.clone()))
    }

    pub(crate) fn has_interface_name(&self, account: &AccountName, name: &Name) -> bool {
        self.interface_names
            .contains_key(&(account.clone(), name.clone()))
    }

    /// The interface of this name; what is being deleted is not there any more.
    pub(crate) fn interface(
        &self,
        account: &AccountName,
        name: &Name,
    ) -> Option<(Key, &Interface)> {
        let key = *self.interface_names.get(&(account.clone(), name.clone()))?;
        let interfaces = &self.get(key)?.instance.interfaces;
        let found = interfaces.iter().find(|interface| interface.name == *name);
        found.map(|interface| (key, interface))
    }

    /// Whether an interface has this relay, whether there is such a one or not; what is being deleted has none.
    pub(crate) fn has_clients(&self, account: &AccountName, relay: &Name) -> bool {
        self.clients.contains_key(&(account.clone(), relay.clone()))
    }

    /// The interfaces that have this relay, with their instances, in the order in which those were created.
    pub(crate) fn clients(
        &self,
        account: &AccountName,
        relay: &Name,
    ) -> impl Iterator<Item = (Key, &Instance, &Interface)> {
        let keys = self.clients.get(&(account.clone(), relay.clone()));
        let held = keys.into_iter().flatten();
        let held = held.filter_map(|key| Some((*key, &self.get(*key)?.instance)));
        held.flat_map(move |(key, instance)| {
            let interfaces = instance.interfaces.iter();
            let own = interfaces.filter(move |interface| {
                let named = interface.relay.as_ref();
                named.is_some_and(|named| named.name == *relay)
            });
            own.map(move |interface| (key, instance, interface))
        })
    }

    pub(crate) fn has_tap(&self, name: &str) -> bool {
        self.taps.contains(name)
    }

    pub(crate) fn has_mac(&self, mac: [u8; 6]) -> bool {
        self.macs.contains(&mac)
    }

    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Who but `except` has a port that cannot be bound beside this one.
    pub(crate) fn clashing(&self, at: &HostPort, except: Option<Key>) -> Option<&Held> {
        let every = HostPort {
            address: None,
            ..*at
        };
        let same = self.ports.range(every..);
        let mut same = same.take_while(|(other, _)| other.number() == at.number());
        let found = same.find(|(other, key)| other.clashes(at) && Some(**key) != except);
        self.instances.get(found?.1)
    }

    /// Whether an instance publishes exactly this port.
    pub(crate) fn has_port(&self, at: &HostPort) -> bool {
        self.ports.contains_key(at)
    }

    /// How many instances there are, those that are being deleted too: they still hold a place.
    pub(crate) fn len(&self) -> usize {
        self.instances.len()
    }

    /// Accounts that have instances.
    pub(crate) const fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// How many of them are this account's.
    pub(crate) fn count_of(&self, account: &AccountName) -> usize {
        let held = self.instances.values();
        held.filter(|held| held.instance.account == *account)
            .count()
    }

    /// Records what an attempt met: nothing, or a reason that doubles the wait.
    pub(crate) fn note(&mut self, key: Key, failure: Option<String>) {
        let Some(held) = self.instances.get_mut(&key) else {
            return;
        };
        let failures = held.trouble.as_ref().map_or(0, |trouble| trouble.failures);
        held.trouble = failure.map(|reason| {
            let wait = Duration::from_secs(1 << failures.min(6)).min(RETRY_MAX);
            Trouble {
                reason,
                failures: failures + 1,
                retry_at: Instant::now() + wait,
            }
        });
    }

    /// When the next failed instance is tried again.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        let troubles = self.instances.values();
        troubles
            .filter_map(|held| Some(held.trouble.as_ref()?.retry_at))
            .min()
    }

    /// Those that failed: with whether their time has come.
    pub(crate) fn troubled(&self, now: Instant) -> impl Iterator<Item = (Key, bool)> {
        self.instances.iter().filter_map(move |(key, held)| {
            let trouble = held.trouble.as_ref()?;
            Some((*key, trouble.retry_at <= now))
        })
    }
}

fn addresses(interface: &Interface) -> impl Iterator<Item = IpAddr> {
    let v6 = interface.guest_v6.map(|net| IpAddr::V6(net.addr()));
    std::iter::once(IpAddr::V4(interface.guest_v4.addr())).chain(v6)
}
