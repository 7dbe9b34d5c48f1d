//! The one task that owns the host: it answers requests, follows changes, and repairs every thirty seconds.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

pub mod handle;
pub mod instance;
mod requests;
mod round;
mod start;
pub mod store_id;
pub mod uplink;

pub use handle::{AgentHandle, Announcement, NewToken, PlanView, RequestError};
pub use start::{StartError, clean_host, host_options, start};

use crate::agent::handle::{Asked, Request, SharedTokens};
use crate::agent::instance::Instance;
use crate::config::Config;
use crate::host::Host;
use crate::ipam::{Pool, Reservation, Reservations};
use crate::plan::Observed;
use uuid::Uuid;

/// Time between two full rounds.
const ROUND_INTERVAL: Duration = Duration::from_secs(30);
/// Time that changes of the host are gathered before a round.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// Time between two collection passes.
const COLLECT_INTERVAL: Duration = Duration::from_secs(5);
/// Requests that may wait.
const REQUESTS_MAX: usize = 1_024;

/// The agent of one host.
pub struct Agent<H> {
    host: H,
    config: Config,
    store_id: Uuid,
    pool: Pool,
    reservations: Reservations,
    /// Reservations of deleted instances whose links could not be removed yet.
    doomed: Vec<Reservation>,
    /// In the order in which they were created.
    instances: Vec<Instance>,
    /// The last observation, kept true by following every step.
    observed: Observed,
    uplink: Option<u32>,
    /// MTU of the uplink, and so of every TAP.
    mtu: u32,
    next_generation: u32,
    /// Route changes were applied whose generation was not raised.
    raise_owed: bool,
    /// What is wrong with the host's part.
    host_trouble: Option<String>,
    /// The step of the host's part that failed, without which no instance can start.
    host_blocked: Option<String>,
    requests: mpsc::Receiver<Asked>,
    tokens: SharedTokens,
}

enum Event {
    Request(Asked),
    HostChanged,
    Due,
    End,
}

/// When something is to be done without being asked.
struct Timers {
    round_at: Instant,
    collect_at: Instant,
}

impl<H: Host> Agent<H> {
    /// Works until `end` resolves or nobody holds a handle. The datapath stays.
    pub async fn run(mut self, end: impl Future<Output = ()>) {
        tokio::pin!(end);
        let now = Instant::now();
        let mut timers = Timers {
            round_at: now + ROUND_INTERVAL,
            collect_at: now + COLLECT_INTERVAL,
        };
        loop {
            let due = timers.next(self.next_retry());
            let event = tokio::select! {
                biased;
                () = &mut end => Event::End,
                request = self.requests.recv() => request.map_or(Event::End, Event::Request),
                () = tokio::time::sleep_until(due) => Event::Due,
                () = self.host.changed() => Event::HostChanged,
            };
            match event {
                Event::End => return,
                Event::Request(request) => self.answer(request).await,
                Event::HostChanged => {
                    timers.round_at = timers.round_at.min(Instant::now() + DEBOUNCE);
                }
                Event::Due => self.do_due(&mut timers).await,
            }
        }
    }

    async fn do_due(&mut self, timers: &mut Timers) {
        let now = Instant::now();
        let retry = self.next_retry().is_some_and(|at| at <= now);
        if retry || timers.round_at <= now {
            timers.round_at = now + ROUND_INTERVAL;
            if let Err(error) = self.round().await {
                tracing::warn!(
                    error = crate::host::one_line(&error),
                    "cannot read the host"
                );
            }
        }
        if timers.collect_at <= now {
            timers.collect_at = now + COLLECT_INTERVAL;
            if let Err(error) = self.host.collect().await {
                tracing::warn!(
                    error = crate::host::one_line(&error),
                    "cannot collect flows"
                );
            }
        }
    }

    async fn answer(&mut self, asked: Asked) {
        // An asker that went away does not wait for the answer: what was done stays done.
        match asked.request {
            Request::Create(spec, answer) => drop(answer.send(self.create(*spec).await)),
            Request::List(answer) => drop(answer.send(Ok(self.list()))),
            Request::Inspect(key, answer) => drop(answer.send(self.inspect(&key).await)),
            Request::Start(key, answer) => drop(answer.send(self.start_instance(&key).await)),
            Request::Stop(key, answer) => drop(answer.send(self.stop_instance(&key).await)),
            Request::Delete(key, answer) => drop(answer.send(self.delete(&key).await)),
            Request::Check(_, answer) => drop(answer.send(Ok(Vec::new()))),
            Request::Announce(_, _, answer) => drop(answer.send(Ok(false))),
            Request::Template(_, answer) => drop(answer.send(Ok(serde_json::Map::new()))),
            Request::Copyable(_, _, answer) | Request::RevokeToken(_, answer) => {
                drop(answer.send(Ok(())));
            }
            Request::CreateToken(_, _, answer) => {
                drop(answer.send(Err(RequestError::Stopping)));
            }
            Request::Plan(answer) => drop(answer.send(self.show_plan().await)),
            Request::Health(answer) => drop(answer.send(Ok(self.host_trouble.clone()))),
        }
    }

    fn next_retry(&self) -> Option<Instant> {
        self.instances
            .iter()
            .filter_map(|instance| Some(instance.trouble.as_ref()?.retry_at))
            .min()
    }

    /// Names of the links of the host.
    fn link_names(&self) -> BTreeSet<&str> {
        self.observed
            .links
            .values()
            .map(|link| link.name.as_str())
            .collect()
    }
}

impl Timers {
    fn next(&self, retry: Option<Instant>) -> Instant {
        let due = self.round_at.min(self.collect_at);
        retry.map_or(due, |retry| due.min(retry))
    }
}

#[cfg(test)]
pub(crate) mod tests;
