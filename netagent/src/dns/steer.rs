//! What becomes of a query, and of the answer to it: the same by UDP and TCP.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::dns::answer::Answer;
use crate::dns::cache::{Key, Origin};
use crate::dns::message::{Failure, Query, code_of, is_truncated};
use crate::dns::places::{Account, Outcome};
use crate::dns::strip::strip;
use crate::dns::{Asker, Permission, Shared};

/// Addresses that one answer may lead to.
const ADDRESSES_MAX: usize = 256;

/// What an asker may do with a query (D-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access<'a> {
    /// It is not forwarded.
    Refused,
    /// It is forwarded as it is, and nothing is learned.
    Free,
    /// As [`Access::Free`], though the list does not allow the name (P-14).
    Audited,
    /// The name is allowed: what it leads to is learned.
    Allowed(&'a str),
}

/// What becomes of a query.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is answered at once.
    Reply(Vec<u8>),
    /// A server is to be asked.
    Forward(Forward),
}

/// A query that is on its way.
#[derive(Clone, Debug)]
pub(super) struct Forward {
    pub(super) query: Query,
    /// What the server is sent.
    pub(super) outgoing: Vec<u8>,
    /// Under which the answer is kept.
    key: Option<Key>,
}

/// What a query may do by this permission.
pub(super) fn access<'a>(permission: &Permission, query: &'a Query) -> Access<'a> {
    if !query.is_internet() || query.is_any() {
        return Access::Refused;
    }
    let (domains, others) = match permission {
        Permission::None => return Access::Refused,
        Permission::All => return Access::Free,
        Permission::Listed(domains) => (domains, Access::Refused),
        Permission::Audited(domains) => (domains, Access::Audited),
    };
    if query.is_transfer() {
        return Access::Refused;
    }
    match query.name().filter(|name| domains.allows(name)) {
        Some(name) => Access::Allowed(name),
        None => others,
    }
}

impl Shared {
    /// Judges a query. `len_max` is for the answer, where there is one at once.
    pub(super) fn judge(
        &self,
        asker: &Asker,
        account: &Account,
        query: Query,
        len_max: usize,
    ) -> Verdict {
        match access(&asker.permission, &query) {
            Access::Refused => {
                account.count(Outcome::Failed);
                return Verdict::Reply(query.failure(Failure::Refused));
            }
            Access::Audited => account.count(Outcome::Audited),
            Access::Free | Access::Allowed(_) => {}
        }
        let is_rebuilt = matches!(asker.permission, Permission::Listed(_));
        let now = Instant::now();
        let key = (is_rebuilt || query.is_plain())
            .then(|| self.key(asker, &query, now))
            .filter(|_| !query.is_transfer());
        if let Some(kept) = key.as_ref().and_then(|key| self.cache.get(key, now)) {
            let (bytes, age) = kept.given_to(&query, now);
            let given = Given {
                bytes,
                answer: &kept.answer,
                age,
            };
            return Verdict::Reply(self.hand_over(asker, account, &query, (given, len_max)));
        }
        let outgoing = if is_rebuilt {
            query.rebuilt()
        } else {
            query.bytes().to_vec()
        };
        Verdict::Forward(Forward {
            query,
            outgoing,
            key,
        })
    }

    fn key(&self, asker: &Asker, query: &Query, now: Instant) -> Key {
        let origin = match asker.upstream {
            Some(own) => Origin::Own(own),
            None => Origin::Shared(self.upstreams.epoch(now)),
        };
        Key {
            origin,
            question: query.essence(),
        }
    }

    /// Makes the answer of a server, which already has the guest's id, the one that the guest gets. The asker is who it
    /// is by now: its list may be another than it was when the query left.
    pub(super) fn answer(
        &self,
        asker: &Asker,
        account: &Account,
        forward: &Forward,
        (bytes, answer, len_max): (Vec<u8>, &Answer, usize),
    ) -> Vec<u8> {
        if let Some(key) = &forward.key {
            self.cache.put(key.clone(), &bytes, answer, Instant::now());
        }
        let given = Given {
            bytes,
            answer,
            age: 0,
        };
        self.hand_over(asker, account, &forward.query, (given, len_max))
    }

    fn hand_over(
        &self,
        asker: &Asker,
        account: &Account,
        query: &Query,
        (given, len_max): (Given<'_>, usize),
    ) -> Vec<u8> {
        let handed = match access(&asker.permission, query) {
            Access::Refused => Err(Failure::Refused),
            access @ (Access::Free | Access::Audited | Access::Allowed(_)) => {
                self.admit(asker, query, access, (given, len_max))
            }
        };
        match handed {
            Ok(bytes) => {
                account.count(Outcome::Answered);
                bytes
            }
            Err(failure) => {
                account.count(Outcome::Failed);
                query.failure(failure)
            }
        }
    }

    /// First what the guest may not have goes, then what it gets is opened (D-4).
    fn admit(
        &self,
        asker: &Asker,
        query: &Query,
        access: Access<'_>,
        (given, len_max): (Given<'_>, usize),
    ) -> Result<Vec<u8>, Failure> {
        if is_truncated(&given.bytes) {
            return Ok(query.truncated(&given.bytes));
        }
        let is_forbidden = |address| self.directory.is_forbidden(asker, address);
        let bytes = self.strip(asker, query, given.bytes, given.answer)?;
        if bytes.len() > len_max {
            return Ok(query.truncated(&bytes));
        }
        if let Access::Allowed(name) = access
            && code_of(&bytes) == 0
        {
            let led_to = given.answer.led_to().iter();
            let open: Vec<(IpAddr, Duration)> = led_to
                .filter(|(address, _)| !is_forbidden(*address))
                .map(|(address, ttl)| (*address, ttl.saturating_sub(given.age)))
                .map(|(address, seconds)| (address, Duration::from_secs(seconds.into())))
                .collect();
            self.learn(asker, name, &open)?;
        }
        Ok(bytes)
    }

    /// The answer without forbidden addresses: byte for byte the same where it has none.
    pub(super) fn strip(
        &self,
        asker: &Asker,
        query: &Query,
        bytes: Vec<u8>,
        answer: &Answer,
    ) -> Result<Vec<u8>, Failure> {
        let is_forbidden = |address| self.directory.is_forbidden(asker, address);
        if !answer.everywhere().iter().copied().any(is_forbidden) {
            return Ok(bytes);
        }
        match strip(&bytes, is_forbidden) {
            // A zone is more than its addresses.
            Ok(stripped) if stripped.is_emptied && !query.is_transfer() => Err(Failure::NoName),
            Ok(stripped) => Ok(stripped.bytes),
            Err(error) => {
                tracing::debug!(%error, "cannot strip a DNS answer");
                Err(Failure::NoAnswer)
            }
        }
    }

    fn learn(&self, asker: &Asker, name: &str, open: &[(IpAddr, Duration)]) -> Result<(), Failure> {
        if open.is_empty() {
            return Ok(());
        }
        if open.len() > ADDRESSES_MAX {
            tracing::debug!(name, addresses = open.len(), "an answer leads to too many");
            return Err(Failure::NoAnswer);
        }
        if let Err(error) = self.learner.learn(asker.start, name, open) {
            tracing::debug!(name, %error, "cannot open what a DNS answer leads to");
            return Err(Failure::NoAnswer);
        }
        for (address, _) in open {
            tracing::debug!(name, %address, "opened");
        }
        Ok(())
    }
}

/// An answer on its way to the guest.
struct Given<'a> {
    bytes: Vec<u8>,
    answer: &'a Answer,
    /// Seconds since it came.
    age: u32,
}
