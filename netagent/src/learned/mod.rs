//! What names led to: which addresses are open to which instance since the resolver gave them out, up to when, and by
//! which names (D-4, D-5). The kernel's tables are the truth for packets; the book beside them is what the agent knows of
//! them, and both say the same.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::dns::{Learner, Start};
use crate::learned::book::Book;
use crate::learned::table::Table;
use crate::spec::domain::Domains;

mod book;
mod numbers;
pub mod table;

/// An address is open for no shorter time after an answer (D-5).
const TTL_MIN: Duration = Duration::from_secs(60);
/// And for no longer: a name that leads there still is asked for again.
const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// An address that is open to an instance, and a name that led there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LedThere {
    /// The name.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// How long it is open still; 0 where it only is since a flow uses it.
    pub left: Duration,
}

/// What all instances learned; shared by the resolver, which adds to it, and the agent, which takes away.
#[derive(Debug, Default)]
pub struct Addresses {
    book: Mutex<Option<Book>>,
}

impl Addresses {
    /// Takes up what the kernel's tables hold. Of starts that are none of `running` nothing stays. Until then nothing can
    /// be learned.
    ///
    /// # Errors
    /// Where the tables cannot be read or written.
    pub fn resume(&self, table: Box<dyn Table>, running: &[Start]) -> io::Result<()> {
        let mut book = self.book();
        *book = None;
        *book = Some(Book::read(table, running)?);
        Ok(())
    }

    /// Whether the tables are known.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.book().is_some()
    }

    /// Allows a start of an instance these names, and no others from now on: what only others led to is closed.
    ///
    /// # Errors
    /// Where the kernel refuses; then something may be open still that no allowed name leads to.
    pub fn retain(&self, start: Start, names: &Arc<Domains>) -> io::Result<()> {
        with(&mut self.book(), |book| {
            book.retain(start, names, (now_ns(), &|_| false))
        })
    }

    /// As [`Addresses::retain`], but what `is_allowed` allows all the same is left open until that is called.
    ///
    /// # Errors
    /// As of [`Addresses::retain`].
    pub fn retain_before(
        &self,
        start: Start,
        names: &Arc<Domains>,
        is_allowed: impl Fn(IpAddr) -> bool,
    ) -> io::Result<()> {
        with(&mut self.book(), |book| {
            book.retain(start, names, (now_ns(), &is_allowed))
        })
    }

    /// Closes everything that an instance learned.
    ///
    /// # Errors
    /// Where the kernel refuses; then it is tried again the next time.
    pub fn forget(&self, instance: u32) -> io::Result<()> {
        match self.book().as_mut() {
            Some(book) => book.forget(instance),
            None => Ok(()),
        }
    }

    /// Closes what ran out before a collection pass began, at `since_ns` of the monotonic clock, and no flow uses: the
    /// pass has seen every flow.
    ///
    /// # Errors
    /// Where the kernel refuses; then it is tried again the next time.
    pub fn expire(&self, since_ns: u64) -> io::Result<()> {
        match self.book().as_mut() {
            Some(book) => book.expire(since_ns),
            None => Ok(()),
        }
    }

    /// What is open to an instance, by name.
    #[must_use]
    pub fn of_instance(&self, instance: u32) -> Vec<LedThere> {
        let book = self.book();
        let led = book.as_ref().map(|book| book.led(instance, now_ns()));
        led.unwrap_or_default()
    }

    fn book(&self) -> MutexGuard<'_, Option<Book>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Learner for Addresses {
    fn learn(&self, start: Start, name: &str, addresses: &[(IpAddr, Duration)]) -> io::Result<()> {
        let now_ns = now_ns();
        let mut until = BTreeMap::new();
        for (address, ttl) in addresses {
            let nanos = nanos((*ttl).clamp(TTL_MIN, TTL_MAX));
            let expires_ns = until.entry(*address).or_insert(0);
            *expires_ns = now_ns.saturating_add(nanos).max(*expires_ns);
        }
        with(&mut self.book(), |book| {
            book.learn(start, name, (now_ns, &until))
        })
    }
}

fn with(book: &mut Option<Book>, work: impl FnOnce(&mut Book) -> io::Result<()>) -> io::Result<()> {
    match book {
        Some(book) => work(book),
        None => Err(io::Error::other("the datapath is not loaded")),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The clock of the programs, ns.
#[must_use]
pub fn now_ns() -> u64 {
    // The kernel always has this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| nanos(Duration::from(now)))
}

#[cfg(test)]
mod tests;
