//! How much of the resolver one asker may take, and what became of its queries (D-8).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::dns::Start;

/// How many of each at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Queries by UDP that wait for an answer.
    pub queries: usize,
    /// Connections by TCP.
    pub connections: usize,
}

/// Of one asker.
pub const ASKER: Bounds = Bounds {
    queries: 64,
    connections: 8,
};
/// Of all together. A query takes one descriptor for each server that is asked at once, a connection two.
pub const ALL: Bounds = Bounds {
    queries: 4_096,
    connections: 1_024,
};

/// What became of the queries of one asker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that came in, by UDP and TCP.
    pub queries: u64,
    /// Answered with what a server said, then or before.
    pub answered: u64,
    /// Answered by the resolver itself: the name is not allowed, no server answered, or the query is none that can be
    /// forwarded.
    pub failed: u64,
    /// Dropped, over a bound or for being no query; connections over a bound too.
    pub refused: u64,
    /// Forwarded though the list does not allow their names (P-14).
    pub audited: u64,
}

/// What can become of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered,
    Failed,
    Refused,
    /// Beside one of the others.
    Audited,
}

/// The places of everybody.
#[derive(Debug)]
pub(super) struct Places {
    queries: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    /// By number of the instance: the latest generation of each alone, so that there are never more than numbers.
    askers: Mutex<BTreeMap<u32, Arc<Account>>>,
}

/// The places of one asker, and its counters.
#[derive(Debug)]
pub(super) struct Account {
    generation: u32,
    queries: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    counts: [AtomicU64; 5],
}

/// A place taken, until it is dropped: one of the asker's and one of all.
#[derive(Debug)]
pub(super) struct Place {
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(all: Bounds) -> Self {
        Self {
            queries: Arc::new(Semaphore::new(all.queries)),
            connections: Arc::new(Semaphore::new(all.connections)),
            askers: Mutex::default(),
        }
    }

    /// The account of an instance; a new one where it was started again.
    pub(super) fn account(&self, start: Start) -> Arc<Account> {
        let Start {
            instance,
            generation,
        } = start;
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        let account = askers
            .entry(instance)
            .or_insert_with(|| Arc::new(Account::new(generation)));
        if account.generation != generation {
            *account = Arc::new(Account::new(generation));
        }
        Arc::clone(account)
    }

    /// What became of the queries of an instance; `None` where it never asked.
    pub(super) fn counters(&self, start: Start) -> Option<Counters> {
        let askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        let account = askers.get(&start.instance)?;
        (account.generation == start.generation).then(|| account.counters())
    }

    /// A place for a query by UDP, where there is one.
    pub(super) fn for_query(&self, account: &Account) -> Option<Place> {
        take((&account.queries, ASKER.queries), &self.queries)
    }

    /// A place for a connection by TCP, where there is one.
    pub(super) fn for_connection(&self, account: &Account) -> Option<Place> {
        take((&account.connections, ASKER.connections), &self.connections)
    }
}

/// Nobody gets more places than there are free ones left. So whatever many greedy askers take together, as much as
/// each of them has is there for the next one, who then gets its first places at once.
fn take(own: (&Arc<Semaphore>, usize), of_all: &Arc<Semaphore>) -> Option<Place> {
    let (own, bound) = own;
    let taken = bound.saturating_sub(own.available_permits());
    if taken >= of_all.available_permits() {
        return None;
    }
    let own = Arc::clone(own).try_acquire_owned().ok()?;
    let of_all = Arc::clone(of_all).try_acquire_owned().ok()?;
    Some(Place {
        _own: own,
        _of_all: of_all,
    })
}

impl Account {
    fn new(generation: u32) -> Self {
        Self {
            generation,
            queries: Arc::new(Semaphore::new(ASKER.queries)),
            connections: Arc::new(Semaphore::new(ASKER.connections)),
            counts: Default::default(),
        }
    }

    pub(super) fn count_query(&self) {
        let [queries, ..] = &self.counts;
        queries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count(&self, outcome: Outcome) {
        let [_, answered, failed, refused, audited] = &self.counts;
        let count = match outcome {
            Outcome::Answered => answered,
            Outcome::Failed => failed,
            Outcome::Refused => refused,
            Outcome::Audited => audited,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn counters(&self) -> Counters {
        let [queries, answered, failed, refused, audited] = self
            .counts
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed));
        Counters {
            queries,
            answered,
            failed,
            refused,
            audited,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(instance: u32, generation: u32) -> Start {
        Start {
            instance,
            generation,
        }
    }

    #[test]
    fn an_asker_at_its_bound_leaves_places_to_others() {
        let places = Places::new(ALL);
        let (greedy, modest) = (places.account(start(1, 1)), places.account(start(2, 1)));
        let taken: Vec<Place> = std::iter::from_fn(|| places.for_connection(&greedy)).collect();
        assert_eq!(taken.len(), ASKER.connections);
        assert!(places.for_connection(&modest).is_some());
        assert!(places.for_query(&greedy).is_some());
        drop(taken);
        assert!(places.for_connection(&greedy).is_some());
    }

    #[test]
    fn all_together_have_a_bound() {
        let places = Places::new(Bounds {
            queries: 1,
            connections: 0,
        });
        let (one, other) = (places.account(start(1, 1)), places.account(start(2, 1)));
        let place = places.for_query(&one);
        assert!(place.is_some() && places.for_query(&other).is_none());
        assert!(places.for_connection(&one).is_none());
        drop(place);
        assert!(places.for_query(&other).is_some());
    }

    #[test]
    fn many_greedy_askers_together_leave_places_to_the_next_one() {
        let places = Places::new(ALL);
        let mut taken = Vec::new();
        for number in 0..64 {
            let greedy = places.account(start(number, 1));
            taken.extend(std::iter::from_fn(|| places.for_query(&greedy)));
        }
        for number in 0..128 {
            let greedy = places.account(start(number, 1));
            taken.extend(std::iter::from_fn(|| places.for_connection(&greedy)));
        }
        let modest = places.account(start(128, 1));
        assert!(places.for_query(&modest).is_some());
        assert!(places.for_connection(&modest).is_some());
    }

    #[test]
    fn a_new_start_of_an_instance_begins_at_nothing() {
        let places = Places::new(ALL);
        places.account(start(1, 1)).count_query();
        assert_eq!(places.counters(start(1, 1)).unwrap().queries, 1);
        assert_eq!(places.counters(start(1, 2)), None);
        places.account(start(1, 2)).count(Outcome::Failed);
        assert_eq!(places.counters(start(1, 1)), None);
        let counters = places.counters(start(1, 2)).unwrap();
        assert_eq!((counters.queries, counters.failed), (0, 1));
    }
}
