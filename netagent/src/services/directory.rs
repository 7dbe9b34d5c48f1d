//! Who asks: the guests that run, by slot, as the agent tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use netagent_common::drop::DropReason;
use netagent_common::services::Client;
use tokio::sync::Notify;

use crate::dns::{self, Asker, Permission, Start};
use crate::guest::GuestInterface;
use crate::guest::router_advert::advertisement;

/// One interface of a guest that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Number of its instance.
    pub instance: u32,
    /// Generation of its start: an answer to an earlier one is dropped on its way.
    pub generation: u32,
    /// Name of its host.
    pub hostname: String,
    /// What it is told.
    pub interface: GuestInterface,
    /// The name server of its own, where it has one.
    pub nameserver: Option<IpAddr>,
    /// What its policy lets it ask for (D-2).
    pub permission: Permission,
    /// Whether a VMM holds the TAP.
    pub attached: bool,
}

/// The guests that run, and what their servers refused.
#[derive(Debug, Default)]
pub struct Directory {
    guests: RwLock<BTreeMap<u32, Arc<Guest>>>,
    /// By slot.
    refused: Mutex<BTreeMap<u32, Refused>>,
    /// Slots whose guests are to be told at once what changed.
    news: Mutex<BTreeSet<u32>>,
    has_news: Notify,
}

/// What the servers refused to one start of a slot; the next one begins at 0.
#[derive(Debug, Default)]
struct Refused {
    generation: u32,
    counts: BTreeMap<DropReason, u64>,
}

impl Directory {
    /// Puts the guest of a slot in the place of the one before, or takes it out. Where its router advertisement
    /// changed, or a VMM has just come, it is told unasked (RFC 4861 section 6.2.4).
    pub fn put(&self, slot: u32, guest: Option<Guest>) {
        let mut guests = self.guests.write().unwrap_or_else(PoisonError::into_inner);
        let Some(guest) = guest else {
            guests.remove(&slot);
            return;
        };
        let before = guests.get(&slot);
        if before.is_some_and(|before| **before == guest) {
            return;
        }
        let same = before.filter(|before| before.generation == guest.generation);
        let untold = same.is_none_or(|before| {
            before.attached != guest.attached
                || advertisement(&before.interface) != advertisement(&guest.interface)
        });
        let tell = untold && guest.wants_advertisements();
        guests.insert(slot, Arc::new(guest));
        drop(guests);
        if tell {
            self.news().insert(slot);
            self.has_news.notify_one();
        }
    }

    /// Tells the guest of a slot unasked, where it is to be: its link changed, so a VMM may have gone and come again
    /// unseen.
    pub fn greet(&self, slot: u32) {
        if self
            .in_slot(slot)
            .is_some_and(|guest| guest.wants_advertisements())
        {
            self.news().insert(slot);
            self.has_news.notify_one();
        }
    }

    /// The guest that asked, as long as it is the one that runs.
    #[must_use]
    pub fn of(&self, client: Client) -> Option<Arc<Guest>> {
        let guests = self.guests.read().unwrap_or_else(PoisonError::into_inner);
        let guest = guests.get(&client.slot)?;
        client.is_of(guest.generation).then(|| Arc::clone(guest))
    }

    /// The guest in a slot.
    #[must_use]
    pub fn in_slot(&self, slot: u32) -> Option<Arc<Guest>> {
        let guests = self.guests.read().unwrap_or_else(PoisonError::into_inner);
        guests.get(&slot).cloned()
    }

    /// Every slot with a guest.
    #[must_use]
    pub fn slots(&self) -> Vec<u32> {
        let guests = self.guests.read().unwrap_or_else(PoisonError::into_inner);
        guests.keys().copied().collect()
    }

    /// Counts what a server refused.
    pub fn count(&self, slot: u32, generation: u32, reason: DropReason) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let of_slot = refused.entry(slot).or_default();
        if of_slot.generation != generation {
            *of_slot = Refused {
                generation,
                counts: BTreeMap::new(),
            };
        }
        *of_slot.counts.entry(reason).or_default() += 1;
    }

    /// What the servers refused to a slot since its start.
    #[must_use]
    pub fn refused(&self, slot: u32, generation: u32) -> BTreeMap<DropReason, u64> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let of_slot = refused.get(&slot);
        let of_slot = of_slot.filter(|refused| refused.generation == generation);
        of_slot
            .map(|refused| refused.counts.clone())
            .unwrap_or_default()
    }

    /// Waits until guests are to be told something, and says in which slots.
    pub(super) async fn changed(&self) -> BTreeSet<u32> {
        loop {
            let news = std::mem::take(&mut *self.news());
            if !news.is_empty() {
                return news;
            }
            self.has_news.notified().await;
        }
    }

    fn news(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// Whether it is told unasked (I-17), and there is anybody to hear it.
    #[must_use]
    pub fn wants_advertisements(&self) -> bool {
        self.interface.autoconfig && self.attached && self.interface.v6.is_some()
    }
}

/// The client with this source address.
pub(super) fn client_of(address: IpAddr) -> Option<Client> {
    match address {
        IpAddr::V4(address) => Client::from_v4(address.octets()),
        IpAddr::V6(address) => {
            Client::from_v6(Ipv6Addr::octets(&address)).map(|(client, _)| client)
        }
    }
}

impl dns::Directory for Directory {
    fn client(&self, address: IpAddr) -> Option<Asker> {
        let client = client_of(address)?;
        let guest = self.of(client)?;
        Some(Asker {
            start: Start {
                instance: guest.instance,
                generation: guest.generation,
            },
            upstream: guest.nameserver,
            permission: guest.permission.clone(),
            mtu: guest.interface.mtu,
        })
    }

    fn is_forbidden(&self, _: &Asker, _: IpAddr) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use netagent_common::services::Place;

    use super::*;
    use crate::guest::GuestV6;

    fn guest(generation: u32) -> Guest {
        Guest {
            instance: 1,
            generation,
            hostname: "web".into(),
            interface: GuestInterface {
                index: 0,
                tap_name: "tap0".into(),
                mac: [2; 6],
                model: "virtio-net-pci".into(),
                queues: 1,
                mtu: 1500,
                autoconfig: true,
                address: "172.16.0.2/30".parse().unwrap(),
                host: [172, 16, 0, 1].into(),
                route: None,
                nameservers: vec![[172, 16, 0, 1].into()],
                v6: Some(GuestV6 {
                    address: "fd00:1::2/64".parse().unwrap(),
                    whole_network: true,
                    gateway: Some("fe80::1".parse().unwrap()),
                    nameservers: Vec::new(),
                }),
            },
            nameserver: None,
            permission: Permission::All,
            attached: true,
        }
    }

    fn client(slot: u32, generation: u32) -> Client {
        Client {
            slot,
            generation,
            place: Place(0),
        }
    }

    #[test]
    fn only_the_start_that_runs_is_known() {
        let directory = Directory::default();
        directory.put(7, Some(guest(5)));
        assert!(directory.of(client(7, 5)).is_some());
        assert!(directory.of(client(7, 4)).is_none(), "an earlier start");
        assert!(directory.of(client(8, 5)).is_none(), "another slot");
        directory.put(7, None);
        assert!(directory.of(client(7, 5)).is_none(), "stopped");
    }

    #[test]
    fn a_guest_is_told_at_once_what_changed_for_it_and_nothing_else() {
        let directory = Directory::default();
        let check = |guest: Guest, expected: &[u32], what: &str| {
            directory.put(7, Some(guest));
            let news: Vec<u32> = std::mem::take(&mut *directory.news()).into_iter().collect();
            assert_eq!(news, expected, "{what}");
        };
        let with = |change: &dyn Fn(&mut Guest)| {
            let mut changed = guest(5);
            change(&mut changed);
            changed
        };
        let detached = with(&|guest| guest.attached = false);
        check(detached, &[], "nobody holds the TAP");
        check(guest(5), &[7], "a VMM came");
        check(guest(5), &[], "nothing changed");
        directory.greet(7);
        directory.greet(8);
        check(guest(5), &[7], "its link changed");
        let renamed = with(&|guest| guest.hostname = "db".into());
        check(renamed, &[], "an advertisement has no name");
        check(
            with(&|guest| guest.interface.mtu = 1400),
            &[7],
            "the MTU changed",
        );
        let silent = with(&|guest| guest.interface.autoconfig = false);
        check(silent, &[], "not unasked");
        check(with(&|guest| guest.interface.v6 = None), &[], "no IPv6");
    }

    #[test]
    fn what_is_refused_is_counted_for_one_start() {
        let directory = Directory::default();
        let reason = DropReason::Malformed;
        directory.count(7, 5, reason);
        directory.count(7, 5, reason);
        directory.count(8, 5, reason);
        assert_eq!(directory.refused(7, 5), BTreeMap::from([(reason, 2)]));
        assert!(directory.refused(7, 6).is_empty());
        directory.count(7, 6, reason);
        assert_eq!(directory.refused(7, 6), BTreeMap::from([(reason, 1)]));
    }
}
