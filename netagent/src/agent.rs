//! The one task that owns the host: it answers requests, follows changes, and repairs every thirty seconds.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

mod audit;
mod carry_out;
mod create;
mod custom;
mod decide;
mod drop_all;
pub mod explain;
mod fault;
mod gather;
mod guest;
pub mod handle;
mod learned;
mod limits;
mod mtu;
mod policy;
mod principal;
pub mod publish;
mod quarantine;
mod registry;
pub mod relay;
mod requests;
mod round;
mod services;
pub(crate) mod snat;
mod start;
pub mod state;
pub mod store_id;
pub mod uplink;
mod vm_to_vm;

pub use handle::{AgentHandle, Announcement, NewToken, PlanView, RequestError, Template};
pub use start::{StartError, host_options, open_store, start, take_down};

use crate::access::TokenRecord;
use crate::agent::audit::Audited;
use crate::agent::drop_all::Denied;
use crate::agent::gather::Gathered;
use crate::agent::handle::{Asked, SharedTokens};
use crate::agent::policy::Compiler;
use crate::agent::quarantine::Quarantine;
use crate::agent::registry::Registry;
use crate::agent::uplink::Uplinks;
use crate::config::Config;
use crate::dns::upstream::Upstreams;
use crate::host::{Changes, Host, one_line};
use crate::ipam::{Pool, Reservations};
use crate::learned::Addresses;
use crate::plan::Observed;
use crate::publish::Listeners;
use crate::services::{Directory, Servers};
use crate::spec::publish::HostPort;
use crate::store::Store;

/// Time between two full rounds.
const ROUND_INTERVAL: Duration = Duration::from_secs(30);
/// Time between two collection passes.
const COLLECT_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two looks at guests that may flood, or whose flows are waited for.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Requests that may wait.
const REQUESTS_MAX: usize = 1_024;
/// Requests that share one commit.
const BATCH_MAX: usize = 64;

/// The agent of one host.
pub struct Agent<H> {
    host: H,
    config: Config,
    store: Store,
    store_id: Uuid,
    pool: Pool,
    compiler: Arc<Compiler>,
    reservations: Reservations,
    registry: Registry,
    /// The last observation, kept true by following every step.
    observed: Observed,
    uplinks: Uplinks,
    /// The lowest MTU of the uplinks, and so of every TAP for which no other was asked.
    mtu: u32,
    next_generation: u32,
    next_publication: u32,
    /// The ports of the host that are held for instances.
    listeners: Listeners,
    /// Why a published port is not held.
    port_trouble: BTreeMap<HostPort, String>,
    /// Instances of which nothing is to pass.
    denied: Denied,
    /// Guests that flood.
    quarantine: Quarantine,
    /// What the log said of policies that are only counted.
    audited: Audited,
    /// Route changes were applied whose generation was not raised.
    raise_owed: bool,
    /// What is wrong with the host's part.
    host_trouble: Option<String>,
    /// The step of the host's part that failed, without which no instance can start. Policies come into force all the same.
    host_blocked: Option<String>,
    /// Whom the servers answer, and with what.
    directory: Arc<Directory>,
    upstreams: Arc<Upstreams>,
    servers: Option<Servers>,
    /// What names led to.
    learned: Arc<Addresses>,
    /// Whether a default route of IPv6 leads through the uplink.
    leads_out_v6: bool,
    /// What guests were told last: the uplink's MTU, and whether IPv6 leads out.
    told: (u32, bool),
    requests: mpsc::Receiver<Asked>,
    tokens: SharedTokens,
}

enum Event {
    Requests(Vec<Asked>),
    HostChanged(Changes),
    Due,
    End,
}

/// When something is to be done without being asked.
struct Timers {
    round_at: Instant,
    collect_at: Instant,
    /// When guests are looked at, while there is anything to watch.
    watch_at: Option<Instant>,
    changes: Gathered,
}

impl<H: Host> Agent<H> {
    /// Works until `end` resolves or nobody holds a handle. The datapath stays.
    pub async fn run(mut self, end: impl Future<Output = ()>) {
        tokio::pin!(end);
        // What an earlier agent's guests were counted for is not news.
        said(self.log_audited().await, "cannot count what is audited");
        let now = Instant::now();
        let mut timers = Timers {
            round_at: now + ROUND_INTERVAL,
            collect_at: now + COLLECT_INTERVAL,
            watch_at: None,
            changes: Gathered::default(),
        };
        loop {
            timers.watch(self.is_watching());
            let due = timers.next(self.registry.next_retry());
            let mut asked = Vec::new();
            let event = tokio::select! {
                biased;
                () = &mut end => Event::End,
                () = tokio::time::sleep_until(due) => Event::Due,
                count = self.requests.recv_many(&mut asked, BATCH_MAX) => {
                    if count == 0 { Event::End } else { Event::Requests(asked) }
                }
                changes = self.host.changed() => Event::HostChanged(changes),
            };
            match event {
                Event::End => return,
                Event::Requests(asked) => self.answer(asked).await,
                Event::HostChanged(changes) => timers.changes.add(changes, Instant::now()),
                Event::Due => self.do_due(&mut timers).await,
            }
        }
    }

    async fn do_due(&mut self, timers: &mut Timers) {
        let now = Instant::now();
        if let Some(changes) = timers.changes.take(now) {
            said(self.follow(changes).await, "cannot follow the host");
            timers.changes.followed(Instant::now());
        }
        if self.registry.next_retry().is_some_and(|at| at <= now) {
            said(self.retry().await, "cannot read the host");
        }
        if timers.round_at <= now {
            timers.round_at = now + ROUND_INTERVAL;
            said(self.round().await, "cannot read the host");
        }
        if timers.collect_at <= now {
            timers.collect_at = now + COLLECT_INTERVAL;
            said(self.collect().await, "cannot collect flows");
            said(self.log_audited().await, "cannot count what is audited");
        }
        if timers.watch_at.take_if(|at| *at <= now).is_some() {
            said(self.settle_denied().await, "cannot count flows");
            said(self.watch_guests().await, "cannot count packets");
        }
    }

    fn is_watching(&self) -> bool {
        self.denied.is_waiting() || self.config.policy.quarantine_pps.is_some()
    }

    fn read_tokens(&self) -> Vec<TokenRecord> {
        self.tokens
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn with_tokens(&self, change: impl FnOnce(&mut Vec<TokenRecord>)) {
        change(&mut self.tokens.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Timers {
    fn next(&self, retry: Option<Instant>) -> Instant {
        let due = self.round_at.min(self.collect_at);
        [retry, self.changes.due_at(), self.watch_at]
            .into_iter()
            .flatten()
            .fold(due, Instant::min)
    }

    fn watch(&mut self, is_watching: bool) {
        if is_watching {
            self.watch_at
                .get_or_insert_with(|| Instant::now() + WATCH_INTERVAL);
        } else {
            self.watch_at = None;
        }
    }
}

/// Says what failed; what was to be done is done at the next round.
fn said<E: std::error::Error>(result: Result<(), E>, what: &str) {
    if let Err(error) = result {
        tracing::warn!(error = one_line(&error), "{what}");
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
pub(crate) mod tests;
