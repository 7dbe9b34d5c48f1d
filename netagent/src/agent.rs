//! The one task that owns the host: it answers requests, follows changes, and repairs every thirty seconds.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub mod instance;
mod requests;
mod round;
mod start;
pub mod store_id;
pub mod uplink;

pub use start::{StartError, clean_host, host_options, start};

use crate::agent::instance::{Instance, InstanceState};
use crate::config::Config;
use crate::host::{Host, HostError};
use crate::ipam::{IpamError, Pool, Reservation, Reservations};
use crate::plan::Observed;
use crate::spec::InstanceSpec;
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
    requests: mpsc::Receiver<Request>,
}

/// Speaks to the agent.
#[derive(Clone, Debug)]
pub struct AgentHandle {
    requests: mpsc::Sender<Request>,
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the text says it")]
pub enum RequestError {
    #[error("Instance '{0}' not found")]
    NotFound(String),
    #[error("Instance name '{0}' is already in use")]
    NameTaken(String),
    #[error("Network interface name '{0}' is already in use")]
    InterfaceNameTaken(String),
    #[error("Unknown user '{0}'")]
    UnknownUser(String),
    #[error("Unknown group '{0}'")]
    UnknownGroup(String),
    #[error(transparent)]
    Exhausted(#[from] IpamError),
    #[error("limits.instances = {0} instances exist already")]
    InstanceLimit(u32),
    #[error("The host cannot be read: {}", crate::host::one_line(.0))]
    Host(#[from] HostError),
    #[error("The agent is stopping")]
    Stopping,
}

/// What `netagent plan` shows.
#[derive(Clone, Debug, Default)]
pub struct PlanView {
    /// Steps with the name of their instance, where they have one.
    pub steps: Vec<(Option<String>, String)>,
    /// What stands in the way.
    pub problems: Vec<(Option<String>, String)>,
}

type Answer<T> = oneshot::Sender<Result<T, RequestError>>;

enum Request {
    Create(Box<InstanceSpec>, Answer<InstanceState>),
    List(Answer<Vec<InstanceState>>),
    Inspect(String, Answer<InstanceState>),
    Start(String, Answer<InstanceState>),
    Stop(String, Answer<InstanceState>),
    Delete(String, Answer<()>),
    Plan(Answer<PlanView>),
    Health(Answer<Option<String>>),
}

impl AgentHandle {
    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, RequestError> {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(request(answer)).await.is_err() {
            return Err(RequestError::Stopping);
        }
        answered.await.unwrap_or(Err(RequestError::Stopping))
    }

    /// Creates an instance, and starts it if its spec says so.
    ///
    /// # Errors
    /// Where it is refused; nothing is left behind then.
    pub async fn create(&self, spec: InstanceSpec) -> Result<InstanceState, RequestError> {
        self.ask(|answer| Request::Create(Box::new(spec), answer))
            .await
    }

    /// All instances, in the order in which they were created.
    ///
    /// # Errors
    /// Where the agent is stopping.
    pub async fn list(&self) -> Result<Vec<InstanceState>, RequestError> {
        self.ask(Request::List).await
    }

    /// One instance by id or name, with its counters.
    ///
    /// # Errors
    /// Where it does not exist.
    pub async fn inspect(&self, key: String) -> Result<InstanceState, RequestError> {
        self.ask(|answer| Request::Inspect(key, answer)).await
    }

    /// Starts an instance; a running one stays as it is.
    ///
    /// # Errors
    /// Where it does not exist.
    pub async fn start(&self, key: String) -> Result<InstanceState, RequestError> {
        self.ask(|answer| Request::Start(key, answer)).await
    }

    /// Stops an instance; its reservations stay.
    ///
    /// # Errors
    /// Where it does not exist.
    pub async fn stop(&self, key: String) -> Result<InstanceState, RequestError> {
        self.ask(|answer| Request::Stop(key, answer)).await
    }

    /// Deletes an instance.
    ///
    /// # Errors
    /// Where it does not exist.
    pub async fn delete(&self, key: String) -> Result<(), RequestError> {
        self.ask(|answer| Request::Delete(key, answer)).await
    }

    /// What the agent would change now.
    ///
    /// # Errors
    /// Where the host cannot be read.
    pub async fn plan(&self) -> Result<PlanView, RequestError> {
        self.ask(Request::Plan).await
    }

    /// What keeps the host's part from being in order; `None` where it is.
    ///
    /// # Errors
    /// Where the agent is stopping.
    pub async fn health(&self) -> Result<Option<String>, RequestError> {
        self.ask(Request::Health).await
    }
}

enum Event {
    Request(Request),
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

    async fn answer(&mut self, request: Request) {
        // An asker that went away does not wait for the answer: what was done stays done.
        match request {
            Request::Create(spec, answer) => drop(answer.send(self.create(*spec).await)),
            Request::List(answer) => drop(answer.send(Ok(self.list()))),
            Request::Inspect(key, answer) => drop(answer.send(self.inspect(&key).await)),
            Request::Start(key, answer) => drop(answer.send(self.start_instance(&key).await)),
            Request::Stop(key, answer) => drop(answer.send(self.stop_instance(&key).await)),
            Request::Delete(key, answer) => drop(answer.send(self.delete(&key).await)),
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
