//! The book: what is written to the tables, in which order.
//!
//! A name is numbered before a note names it, and a note stands before its address is open; closing goes the other way.
//! So an agent that is killed in between leaves notes of what is not open at most, and never an open address of which
//! nobody knows why.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use netagent_common::learned::{LEARNED_MAX, LEARNED_PER_INSTANCE, LedTo};

use crate::dns::Start;
use crate::learned::LedThere;
use crate::learned::numbers::Numbers;
use crate::learned::table::{Place, Table, note_key, place_of};
use crate::spec::domain::Domains;

/// A note is written anew where it gains more than this, ns: a name that is asked for all the time costs one write a
/// second.
const GAIN_MIN_NS: u64 = 1_000_000_000;
/// Notes that one instance may make anew in a second, after a burst of as many as it may have: whoever answers a guest
/// with other addresses, or asks by other names, each time would keep the resolver busy for everybody (D-8).
const NOTED_PER_SECOND: u64 = 512;
/// Names that lead to one address; the one that runs out first makes room.
const NAMES_PER_ADDRESS: usize = 32;
/// Notes of one instance; the address heard of longest ago makes room.
const NOTES_PER_INSTANCE: usize = 2 * LEARNED_PER_INSTANCE;
/// Of the addresses heard of longest ago, how many are looked at for one that no flow uses.
const LOOKED_AT_MAX: usize = 16;
/// The programs' clock may be a tick behind.
const CLOCK_STEP_NS: u64 = 1_000_000_000;

#[derive(Debug)]
pub(super) struct Book {
    table: Box<dyn Table>,
    numbers: Numbers,
    instances: BTreeMap<u32, Instance>,
    /// Notes of all instances.
    notes: usize,
    /// When the last collection pass began, ns: a flow that it did not find is over.
    passed_ns: u64,
    /// Counts what was heard, so that the address heard of longest ago is known.
    heard: u64,
}

/// What one instance learned.
#[derive(Debug)]
struct Instance {
    generation: u32,
    /// The names that it may learn from; `None` until it is told which.
    names: Option<Arc<Domains>>,
    /// Something could not be closed that no allowed name leads to.
    is_owed: bool,
    addresses: BTreeMap<IpAddr, Address>,
    /// Names that led there, over all of them.
    notes: usize,
    /// They, by [`Address::heard`].
    by_age: BTreeMap<u64, IpAddr>,
    /// Up to when what it opened is paid, ns.
    paid_ns: u64,
}

#[derive(Debug, Default)]
struct Address {
    is_open: bool,
    /// Its number in the order of what was heard last.
    heard: u64,
    /// Names that led there, by number, and up to when, ns.
    names: Vec<(u32, u64)>,
}

impl Address {
    /// Whether a name led there.
    fn leads(&self, name: u32) -> bool {
        self.names.iter().any(|(known, _)| *known == name)
    }

    fn expires_ns(&self) -> u64 {
        let until = self.names.iter().map(|(_, expires_ns)| *expires_ns);
        until.max().unwrap_or(0)
    }
}

impl Book {
    /// Reads the tables. What belongs to none of these starts is closed, and so is what no note tells the reason of.
    pub(super) fn read(table: Box<dyn Table>, running: &[Start]) -> io::Result<Self> {
        let contents = table.read()?;
        let mut book = Self {
            table,
            numbers: Numbers::default(),
            instances: BTreeMap::new(),
            heard: 0,
            notes: 0,
            passed_ns: 0,
        };
        for start in running {
            book.instances
                .insert(start.instance, Instance::new(start.generation));
        }
        for (number, name) in &contents.names {
            if !book.numbers.resume(*number, name) {
                book.table.unname(*number)?;
            }
        }
        let open: BTreeMap<Place, u32> = contents
            .open
            .iter()
            .map(|(place, open)| (*place, open.generation))
            .collect();
        let mut stray = Vec::new();
        for (key, led_to) in contents.led_to {
            let place = place_of(&key);
            let is_open = open.get(&place) == Some(&led_to.generation);
            let instance = book.instances.get_mut(&key.instance);
            let instance = instance.filter(|instance| instance.generation == led_to.generation);
            match instance {
                Some(instance) if is_open && book.numbers.text(key.name).is_some() => {
                    let address = instance.addresses.entry(place.1).or_default();
                    address.is_open = true;
                    address.names.push((key.name, led_to.expires_ns));
                    instance.notes += 1;
                    book.notes += 1;
                    book.numbers.count(key.name);
                }
                _ => stray.push(key),
            }
        }
        for place in open.keys() {
            let instance = book.instances.get(&place.0);
            let known = instance.is_some_and(|instance| instance.addresses.contains_key(&place.1));
            if !known {
                book.table.close(*place)?;
            }
        }
        book.order_by_expiry();
        for key in stray {
            book.table.forget(key)?;
        }
        book.numbers.sweep(&mut *book.table)?;
        Ok(book)
    }

    /// Opens addresses, each up to its time.
    pub(super) fn learn(
        &mut self,
        start: Start,
        name: &str,
        (now_ns, addresses): (u64, &BTreeMap<IpAddr, u64>),
    ) -> io::Result<()> {
        let instance = self.instances.get(&start.instance);
        let instance = instance.filter(|instance| instance.generation == start.generation);
        let names = instance.and_then(|instance| instance.names.as_ref());
        if !names.is_some_and(|names| names.allows(name)) {
            return Err(io::Error::other("the name is not allowed, or no longer"));
        }
        if addresses.is_empty() {
            return Ok(());
        }
        let number = self.numbers.number(name, &mut *self.table)?;
        let paid = self.pay(start.instance, now_ns, (number, addresses));
        if let Err(error) = paid {
            self.numbers.sweep(&mut *self.table)?;
            return Err(error);
        }
        let opened = addresses.iter().try_for_each(|(address, expires_ns)| {
            self.open((start, *address), (number, *expires_ns))
        });
        // Where the first note failed, nothing names it.
        let swept = self.numbers.sweep(&mut *self.table);
        opened.and(swept)
    }

    fn open(&mut self, (start, address): (Start, IpAddr), led: (u32, u64)) -> io::Result<()> {
        let (number, expires_ns) = led;
        let Some(instance) = self.instances.get_mut(&start.instance) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let is_new = !instance.addresses.contains_key(&address);
        let is_full = instance.addresses.len() >= LEARNED_PER_INSTANCE
            || instance.notes >= NOTES_PER_INSTANCE;
        if is_new && (is_full || self.is_over_share(start.instance)) {
            self.make_room(start.instance)?;
        } else if !is_new {
            self.make_room_for_name((start.instance, address), number)?;
        }
        let Some(instance) = self.instances.get_mut(&start.instance) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let place = (start.instance, address);
        self.heard += 1;
        instance.hear(address, self.heard);
        let entry = instance.addresses.entry(address).or_default();
        let known = entry.names.iter_mut().find(|(name, _)| *name == number);
        let before_ns = known.as_ref().map(|(_, before_ns)| *before_ns);
        if before_ns.is_none_or(|before_ns| expires_ns > before_ns.saturating_add(GAIN_MIN_NS)) {
            let note = LedTo {
                expires_ns,
                generation: start.generation,
                reserved: 0,
            };
            if let Err(error) = self.table.note(note_key(place, number), note) {
                if entry.names.is_empty() {
                    instance.remove(&address);
                }
                return Err(error);
            }
            match known {
                Some(known) => known.1 = expires_ns,
                None => {
                    entry.names.push((number, expires_ns));
                    instance.notes += 1;
                    self.notes += 1;
                    self.numbers.count(number);
                }
            }
        }
        if !entry.is_open {
            self.table.open(place, start.generation)?;
            entry.is_open = true;
        }
        Ok(())
    }

    /// Where the name that leads to an address is one too many, the one that runs out first goes.
    fn make_room_for_name(&mut self, place: Place, number: u32) -> io::Result<()> {
        let instance = self.instances.get(&place.0);
        let entry = instance.and_then(|instance| instance.addresses.get(&place.1));
        let Some(entry) = entry.filter(|entry| entry.names.len() >= NAMES_PER_ADDRESS) else {
            return Ok(());
        };
        let first = entry.names.iter().min_by_key(|(_, expires_ns)| *expires_ns);
        match first.copied() {
            Some((first, _)) if !entry.leads(number) => self.unlead(place, first),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the tables are nearly full and the instance has more of them than there is for each: then it makes room
    /// for what it learns itself, so that the others find some.
    fn is_over_share(&self, number: u32) -> bool {
        let most = LEARNED_MAX as usize;
        if self.notes.max(self.numbers.parts()) < most / 4 * 3 {
            return false;
        }
        let share = most / self.instances.len().max(1);
        let instance = self.instances.get(&number);
        instance.is_some_and(|instance| instance.notes > share)
    }

    /// Charges an instance for the notes that are not made yet.
    fn pay(
        &mut self,
        number: u32,
        now_ns: u64,
        (name, addresses): (u32, &BTreeMap<IpAddr, u64>),
    ) -> io::Result<()> {
        const PRICE_NS: u64 = 1_000_000_000 / NOTED_PER_SECOND;
        const BURST_NS: u64 = PRICE_NS * NOTES_PER_INSTANCE as u64;
        let Some(instance) = self.instances.get_mut(&number) else {
            return Ok(());
        };
        let is_new = |address: &&IpAddr| {
            let known = instance.addresses.get(address);
            known.is_none_or(|entry| !entry.leads(name))
        };
        let count = addresses.keys().filter(is_new).count();
        let cost_ns = PRICE_NS.saturating_mul(u64::try_from(count).unwrap_or(u64::MAX));
        let paid_ns = instance.paid_ns.max(now_ns).saturating_add(cost_ns);
        if count > 0 && paid_ns > now_ns.saturating_add(BURST_NS) {
            return Err(io::Error::other("it learns too much at once"));
        }
        instance.paid_ns = paid_ns;
        Ok(())
    }

    /// Nobody knows any more in which order they were heard of: those that run out first come first.
    fn order_by_expiry(&mut self) {
        for instance in self.instances.values_mut() {
            let addresses = instance.addresses.iter();
            let by_expiry = addresses.map(|(address, entry)| (entry.expires_ns(), *address));
            let by_expiry: BTreeSet<(u64, IpAddr)> = by_expiry.collect();
            for (_, address) in by_expiry {
                self.heard += 1;
                instance.hear(address, self.heard);
            }
        }
    }

    /// Closes the address that was heard of longest ago, of a few one that no flow uses where there is one.
    fn make_room(&mut self, number: u32) -> io::Result<()> {
        let Some(instance) = self.instances.get(&number) else {
            return Ok(());
        };
        let mut victim = instance.by_age.values().next().copied();
        for address in instance.by_age.values().take(LOOKED_AT_MAX) {
            let used_ns = self.table.used_ns((number, *address))?;
            if used_ns == 0 || Self::is_over(used_ns, self.passed_ns) {
                victim = Some(*address);
                break;
            }
        }
        match victim {
            Some(address) => self.close((number, address)),
            None => Ok(()),
        }
    }

    /// Closes an address and takes its notes away.
    fn close(&mut self, place: Place) -> io::Result<()> {
        let (number, address) = place;
        let Some(instance) = self.instances.get_mut(&number) else {
            return Ok(());
        };
        let Some(entry) = instance.addresses.get_mut(&address) else {
            return Ok(());
        };
        self.table.close(place)?;
        entry.is_open = false;
        while let Some((name, _)) = entry.names.last().copied() {
            self.table.forget(note_key(place, name))?;
            entry.names.pop();
            instance.notes = instance.notes.saturating_sub(1);
            self.notes = self.notes.saturating_sub(1);
            self.numbers.release(name);
        }
        instance.remove(&address);
        Ok(())
    }

    /// As [`super::Addresses::retain_before`].
    pub(super) fn retain(
        &mut self,
        start: Start,
        names: &Arc<Domains>,
        (now_ns, is_allowed): (u64, &dyn Fn(IpAddr) -> bool),
    ) -> io::Result<()> {
        let same_start = self
            .instances
            .get(&start.instance)
            .is_some_and(|instance| instance.generation == start.generation);
        if !same_start {
            self.forget(start.instance)?;
        }
        let instance = self
            .instances
            .entry(start.instance)
            .or_insert_with(|| Instance::new(start.generation));
        let is_same = instance.names.as_ref().is_some_and(|known| known == names);
        if is_same && !instance.is_owed {
            return Ok(());
        }
        // In force before anything is closed: nothing is learned by what the list had before.
        instance.names = Some(Arc::clone(names));
        instance.is_owed = true;
        let mut is_left = false;
        let mut closed = Vec::new();
        let mut renamed = Vec::new();
        for (address, entry) in &instance.addresses {
            let allowed = |name: u32| {
                self.numbers
                    .text(name)
                    .is_some_and(|text| names.allows(text))
            };
            let led = entry.names.iter().copied();
            let (kept, gone): (Vec<_>, Vec<_>) = led.partition(|(name, _)| allowed(*name));
            // One that ran out keeps it open only beside no other: who knows which of them the flow there came by?
            let is_kept = if gone.is_empty() {
                !kept.is_empty()
            } else {
                kept.iter().any(|(_, expires_ns)| *expires_ns > now_ns)
            };
            if !is_kept && is_allowed(*address) {
                is_left = true;
            } else if is_kept {
                renamed.extend(gone.into_iter().map(|(name, _)| (*address, name)));
            } else {
                closed.push(*address);
            }
        }
        for address in closed {
            self.close((start.instance, address))?;
        }
        for (address, name) in renamed {
            self.unlead((start.instance, address), name)?;
        }
        if let Some(instance) = self.instances.get_mut(&start.instance) {
            instance.is_owed = is_left;
        }
        self.numbers.sweep(&mut *self.table)
    }

    /// A name leads to an address no longer, and others do still.
    fn unlead(&mut self, place: Place, name: u32) -> io::Result<()> {
        self.table.forget(note_key(place, name))?;
        if let Some(instance) = self.instances.get_mut(&place.0)
            && let Some(entry) = instance.addresses.get_mut(&place.1)
        {
            entry.names.retain(|(known, _)| *known != name);
            instance.notes = instance.notes.saturating_sub(1);
            self.notes = self.notes.saturating_sub(1);
        }
        self.numbers.release(name);
        Ok(())
    }

    /// As [`super::Addresses::forget`].
    pub(super) fn forget(&mut self, number: u32) -> io::Result<()> {
        let Some(instance) = self.instances.get_mut(&number) else {
            return Ok(());
        };
        instance.names = None;
        let addresses: Vec<IpAddr> = instance.addresses.keys().copied().collect();
        for address in addresses {
            self.close((number, address))?;
        }
        self.instances.remove(&number);
        self.numbers.sweep(&mut *self.table)
    }

    /// Whether a pass that began at `since_ns` found no flow that was there at `used_ns`.
    const fn is_over(used_ns: u64, since_ns: u64) -> bool {
        used_ns.saturating_add(CLOCK_STEP_NS) < since_ns
    }

    /// Closes what ran out before a pass began, at `since_ns`, and had no flow in it.
    pub(super) fn expire(&mut self, since_ns: u64) -> io::Result<()> {
        self.passed_ns = since_ns;
        let ran_out: Vec<Place> = self
            .instances
            .iter()
            .flat_map(|(number, instance)| {
                let addresses = instance.addresses.iter();
                let ran_out = addresses.filter(|(_, entry)| entry.expires_ns() <= since_ns);
                ran_out.map(|(address, _)| (*number, *address))
            })
            .collect();
        for place in ran_out {
            let used_ns = self.table.used_ns(place)?;
            if Self::is_over(used_ns, since_ns) {
                self.close(place)?;
            }
        }
        self.numbers.sweep(&mut *self.table)
    }

    pub(super) fn led(&self, number: u32, now_ns: u64) -> Vec<LedThere> {
        let instance = self.instances.get(&number);
        let addresses = instance.into_iter().flat_map(|one| &one.addresses);
        let led: BTreeSet<LedThere> = addresses
            .filter(|(_, entry)| entry.is_open)
            .flat_map(|(address, entry)| {
                let names = entry.names.iter();
                names.filter_map(|(name, expires_ns)| {
                    Some(LedThere {
                        name: self.numbers.text(*name)?.to_owned(),
                        address: *address,
                        left: Duration::from_nanos(expires_ns.saturating_sub(now_ns)),
                    })
                })
            })
            .collect();
        led.into_iter().collect()
    }
}

impl Instance {
    fn new(generation: u32) -> Self {
        Self {
            generation,
            names: None,
            is_owed: false,
            addresses: BTreeMap::new(),
            notes: 0,
            by_age: BTreeMap::new(),
            paid_ns: 0,
        }
    }

    fn hear(&mut self, address: IpAddr, number: u64) {
        let entry = self.addresses.entry(address).or_default();
        self.by_age.remove(&entry.heard);
        self.by_age.insert(number, address);
        entry.heard = number;
    }

    fn remove(&mut self, address: &IpAddr) {
        if let Some(entry) = self.addresses.remove(address) {
            self.by_age.remove(&entry.heard);
        }
    }
}
