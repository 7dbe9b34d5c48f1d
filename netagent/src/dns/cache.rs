//! Answers that others may have as well. What is kept is as it came: what a guest may ask for, and which addresses it
//! may have, is judged each time anew.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::dns::answer::Answer;
use crate::dns::message::{self, Query};

/// What is kept at most: answers, and bytes of them and of what is known of them.
pub(super) const BOUNDS: Bounds = Bounds {
    answers: 4_096,
    bytes: 8 << 20,
};
/// Longest answer that is kept; longer ones do not come by UDP.
const ANSWER_LEN_MAX: usize = 4_096;
/// Bytes of an entry beside its question and its answer, about.
const ENTRY_LEN: usize = 320;

#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) answers: usize,
    pub(super) bytes: usize,
}

/// Who was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// The name server of an instance.
    Own(IpAddr),
    /// The servers of all, in the state of this number.
    Shared(u64),
}

/// All that an answer depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) origin: Origin,
    /// As [`Query::essence`] gives it.
    pub(super) question: Box<[u8]>,
}

impl Key {
    /// Whether an answer stands here that came from this name server of an instance, or from the servers of all.
    pub(super) fn is_of(&self, own: Option<IpAddr>) -> bool {
        match self.origin {
            Origin::Own(address) => own == Some(address),
            Origin::Shared(_) => own.is_none(),
        }
    }
}

/// An answer that is kept.
#[derive(Debug)]
pub(super) struct Kept {
    bytes: Box<[u8]>,
    pub(super) answer: Answer,
    since: Instant,
    good_for: Duration,
}

#[derive(Debug)]
pub(super) struct Cache {
    bounds: Bounds,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    answers: BTreeMap<Arc<Key>, (u64, Arc<Kept>)>,
    /// By age.
    ages: BTreeMap<u64, Arc<Key>>,
    next_age: u64,
    bytes: usize,
}

impl Kept {
    /// The answer as this asker is to have it, and how many seconds old it is.
    pub(super) fn given_to(&self, query: &Query, now: Instant) -> (Vec<u8>, u32) {
        let age = now.saturating_duration_since(self.since).as_secs();
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        let mut bytes = self.bytes.to_vec();
        query.adopt(&mut bytes);
        self.answer.grow_older(&mut bytes, age);
        (bytes, age)
    }

    fn is_good(&self, now: Instant) -> bool {
        now < self.since + self.good_for
    }

    fn size(&self, key: &Key) -> usize {
        self.bytes.len() + self.answer.size() + key.question.len() + ENTRY_LEN
    }
}

impl Cache {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            held: Mutex::default(),
        }
    }

    /// The answer to a question, as long as it is good.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Arc<Kept>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, kept) = held.answers.get(key)?;
        if kept.is_good(now) {
            return Some(Arc::clone(kept));
        }
        held.remove(key);
        None
    }

    /// Keeps an answer, if it is one to keep; the oldest make room.
    pub(super) fn put(&self, key: Key, bytes: &[u8], answer: &Answer, now: Instant) {
        let Some(good_for) = answer.good_for() else {
            return;
        };
        if bytes.len() > ANSWER_LEN_MAX || message::is_truncated(bytes) {
            return;
        }
        let kept = Kept {
            bytes: bytes.into(),
            answer: answer.clone(),
            since: now,
            good_for,
        };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&key);
        held.insert(key, kept);
        while held.answers.len() > self.bounds.answers || held.bytes > self.bounds.bytes {
            let Some(oldest) = held.ages.first_key_value().map(|(_, key)| Arc::clone(key)) else {
                return;
            };
            held.remove(&oldest);
        }
    }
}

impl Held {
    fn insert(&mut self, key: Key, kept: Kept) {
        let age = self.next_age;
        self.next_age += 1;
        self.bytes += kept.size(&key);
        let key = Arc::new(key);
        self.ages.insert(age, Arc::clone(&key));
        self.answers.insert(key, (age, Arc::new(kept)));
    }

    fn remove(&mut self, key: &Key) {
        if let Some((age, kept)) = self.answers.remove(key) {
            self.ages.remove(&age);
            self.bytes = self.bytes.saturating_sub(kept.size(key));
        }
    }
}

#[cfg(test)]
mod tests;
