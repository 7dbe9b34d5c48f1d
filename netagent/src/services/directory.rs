//! Who asks: the guests that run, by slot, as the agent tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use netagent_common::drop::DropReason;
use netagent_common::services::Client;
use tokio::sync::Notify;

use crate::dns::{self, Asker, Permission, Start};
use crate::guest::GuestInterface;
use crate::guest::router_advert::advertisement;
use crate::services::forbidden::{Forbidden, Standing};

/// One interface of a guest that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Generation of its start: an answer to an earlier one is dropped on its way.
    pub generation: u32,
    /// Number of its instance.
    pub instance: u32,
    /// Number of the account whose instances reach each other (P-12); 0 where it reaches no other.
    pub account: u32,
    /// Name of its host.
    pub hostname: String,
    /// What it is told.
    pub interface: GuestInterface,
    /// The name server of its own, where it has one.
    pub nameserver: Option<IpAddr>,
    /// The gateway that its instance brought.
    pub gateway: Option<Ipv4Addr>,
    /// What its policy lets it ask the resolver for.
    pub permission: Permission,
    /// Whether a VMM holds the TAP.
    pub attached: bool,
}

/// The guests that run, and what their servers refused.
#[derive(Debug, Default)]
pub struct Directory {
    guests: RwLock<BTreeMap<u32, Arc<Guest>>>,
    /// `None` until the host's part stands: then everything is forbidden.
    forbidden: RwLock<Option<Arc<Forbidden>>>,
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

    /// Changes what the guest of a slot may ask for, where there is one, and nothing else.
    pub fn permit(&self, slot: u32, permission: &Permission) {
        let mut guests = self.guests.write().unwrap_or_else(PoisonError::into_inner);
        let guest = guests.get_mut(&slot);
        if let Some(guest) = guest.filter(|guest| guest.permission != *permission) {
            Arc::make_mut(guest).permission = permission.clone();
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

    /// Says what no answer may lead to from now on.
    pub fn forbid(&self, forbidden: Forbidden) {
        let mut place = self
            .forbidden
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *place = Some(Arc::new(forbidden));
    }

    /// What no answer may lead to, where it is known.
    #[must_use]
    pub fn forbidden(&self) -> Option<Arc<Forbidden>> {
        let place = self.forbidden.read();
        place.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether another instance of the account of `guest` has the address.
    fn is_of_account(&self, guest: &Guest, address: IpAddr) -> bool {
        let guests = self.guests.read().unwrap_or_else(PoisonError::into_inner);
        let mut others = guests
            .values()
            .filter(|other| other.account == guest.account && other.instance != guest.instance);
        guest.account != 0 && others.any(|other| other.has(address))
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

    fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.interface.address.addr() == address,
            IpAddr::V6(address) => self.interface.v6.as_ref().is_some_and(|v6| {
                let within = v6.whole_network && v6.address.contains(&address);
                within || v6.address.addr() == address
            }),
        }
    }

    fn is_gateway(&self, address: IpAddr) -> bool {
        let gateways = [Some(self.interface.host), self.gateway];
        gateways.iter().flatten().any(|gateway| *gateway == address)
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

    fn is_forbidden(&self, asker: &Asker, address: IpAddr) -> bool {
        let first = asker.start.instance;
        let (Some(forbidden), Some(guest)) = (self.forbidden(), self.in_slot(first)) else {
            return true;
        };
        let standing = forbidden.standing(address);
        guest.is_gateway(address)
            || match standing {
                Standing::Free => false,
                Standing::Instance => !self.is_of_account(&guest, address),
                Standing::Forbidden => true,
            }
    }
}

#[cfg(test)]
mod tests;
