//! What others ask of the agent, and why it refuses.

use std::net::IpAddr;
use std::sync::{Arc, RwLock};

use ipnet::IpNet;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, mpsc, oneshot};
use uuid::Uuid;

use crate::access::{AccountName, Caller, TokenRecord};
use crate::agent::explain::Explained;
use crate::agent::policy::Compiler;
use crate::agent::state::InstanceState;
use crate::config::PortRange;
use crate::guest::GuestConfig;
use crate::host::HostError;
use crate::instance::AnnouncedPort;
use crate::ipam::IpamError;
use crate::policy::Compiled;
use crate::policy::explain::Subject;
use crate::publish::ReserveError;
use crate::spec::limit::LimitsSpec;
use crate::spec::policy::PolicySpec;
use crate::spec::publish::{ExposedPort, PortsSpec};
use crate::spec::{InstanceSpec, SpecError};

/// Speaks to the agent.
#[derive(Clone, Debug)]
pub struct AgentHandle {
    requests: mpsc::Sender<Asked>,
    tokens: SharedTokens,
    compiler: Arc<Compiler>,
    compiling: Arc<Semaphore>,
}

/// Tokens as the API reads them while the agent works.
pub(crate) type SharedTokens = Arc<RwLock<Vec<TokenRecord>>>;

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the text says it")]
pub enum RequestError {
    #[error("Instance '{0}' not found")]
    NotFound(String),
    #[error("Token '{0}' not found")]
    TokenNotFound(String),
    #[error("Instance name '{0}' is already in use")]
    NameTaken(String),
    #[error("Network interface name '{0}' is already in use")]
    InterfaceNameTaken(String),
    #[error(
        "Network interface {0}: delete those first, or delete it with force (--force): until there is a network interface of that name again, nothing passes to or from them"
    )]
    RelayInUse(String),
    #[error("Port {port} is already in use by {owner}")]
    PortTaken { port: ExposedPort, owner: String },
    #[error("Port {port} cannot be published: publish.ports of the configuration is {range}")]
    PortOutside { port: ExposedPort, range: PortRange },
    #[error("Port {port} cannot be published: the ports of nat.ports, {range}, stand for guests")]
    PortOfNat { port: ExposedPort, range: PortRange },
    #[error(
        "Address {address} cannot be snat_address: no uplink of this host has it. Add it with 'ip address add {}'",
        crate::agent::snat::to_be_added(*address, uplink)
    )]
    SnatNotOurs { address: IpAddr, uplink: String },
    #[error(transparent)]
    Port(ReserveError),
    #[error("Account '{account}' may publish {limit} ports (published_ports)")]
    AccountPortLimit { account: AccountName, limit: u32 },
    #[error(
        "Member 'flows' cannot be {flows}: limits.flows of the configuration allows an instance {most}"
    )]
    FlowLimit { flows: u32, most: u32 },
    #[error("This host holds {max} {what}, and has no place for these")]
    PortPlaces { what: &'static str, max: u32 },
    #[error("Network interface IP address '{0}' is already in use")]
    AddressTaken(IpNet),
    #[error("TAP device '{0}' is already in use by another network interface")]
    TapTaken(String),
    #[error("MAC address '{0}' is already in use")]
    MacTaken(String),
    #[error("Device '{0}' exists and is not a TAP device")]
    NotATap(String),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("{0}")]
    TapNotAllowed(String),
    #[error("{0}")]
    Invalid(String),
    #[error("Not supported yet: {0}")]
    NotSupported(String),
    #[error("Unknown user '{0}'")]
    UnknownUser(String),
    #[error("Unknown group '{0}'")]
    UnknownGroup(String),
    #[error("Instances with more than one network interface cannot be {0}")]
    SeveralInterfaces(&'static str),
    #[error(transparent)]
    Exhausted(#[from] IpamError),
    #[error("limits.instances = {0} instances exist already")]
    InstanceLimit(u32),
    #[error("Account '{account}' may have {limit} instances, and has them already")]
    AccountLimit { account: AccountName, limit: u32 },
    #[error("The host cannot be read: {}", crate::host::one_line(.0))]
    Host(#[from] HostError),
    #[error("The request cannot be stored: {0}: nothing was changed")]
    Store(String),
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

/// A port that a guest says it listens on (I-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Address that it listens on.
    pub address: IpAddr,
    /// Port and protocol.
    pub port: AnnouncedPort,
}

/// What makes more instances like one (I-19).
#[derive(Clone, Debug)]
pub struct Template {
    /// The request that made it, without its network configuration.
    pub request: Map<String, Value>,
    /// What of that others would miss.
    pub warnings: Vec<String>,
}

/// A new token; its secret is shown once.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// What is kept.
    pub record: TokenRecord,
    /// What authenticates.
    pub secret: String,
}

pub(crate) type Answer<T> = oneshot::Sender<Result<T, RequestError>>;

pub(crate) enum Request {
    /// With its policy, compiled.
    Create(
        Box<InstanceSpec>,
        Option<Arc<Compiled>>,
        Answer<InstanceState>,
    ),
    /// Everything that create would refuse, without creating (`--check`).
    Check(Box<InstanceSpec>, Answer<Vec<String>>),
    List(Answer<Vec<InstanceState>>),
    Inspect(String, Answer<InstanceState>),
    Start(String, Answer<InstanceState>),
    Stop(String, Answer<InstanceState>),
    /// Whatever it is the relay of, where that is forced.
    Delete(String, bool, Answer<()>),
    Announce(String, Announcement, Answer<bool>),
    /// Replaces published and exposed ports.
    Publish(String, PortsSpec, Answer<InstanceState>),
    /// Replaces the policy, which is compiled.
    Policy(
        String,
        Box<(PolicySpec, Option<Arc<Compiled>>)>,
        Answer<InstanceState>,
    ),
    /// Replaces the limits.
    Limits(String, LimitsSpec, Answer<InstanceState>),
    Template(String, Answer<Template>),
    /// Whether it may be branched or checkpointed.
    Copyable(String, &'static str, Answer<()>),
    /// What its guest is to be configured with.
    Guest(String, Answer<GuestConfig>),
    /// What becomes of what its guest sends or asks for.
    Explain(String, Subject, Answer<Explained>),
    CreateToken(AccountName, bool, Answer<NewToken>),
    RevokeToken(Uuid, Answer<()>),
    Plan(Answer<PlanView>),
    Health(Answer<Option<String>>),
}

/// A request with who asks.
pub(crate) struct Asked {
    pub(crate) caller: Caller,
    pub(crate) request: Request,
}

impl AgentHandle {
    /// A handle on the other end of `requests`, sharing the tokens that are in force.
    pub(crate) fn new(
        requests: mpsc::Sender<Asked>,
        tokens: SharedTokens,
        compiler: Arc<Compiler>,
    ) -> Self {
        Self {
            requests,
            tokens,
            compiler,
            compiling: Arc::new(Semaphore::new(1)),
        }
    }

    /// A policy compiled aside: its lists may be very long, and the agent answers others meanwhile.
    async fn compiled(&self, policy: &PolicySpec) -> Result<Option<Arc<Compiled>>, RequestError> {
        // One after the other: they take time and memory, and anybody with a token may ask.
        let turn = self.compiling.acquire().await;
        let _turn = turn.map_err(|_closed| RequestError::Stopping)?;
        let (compiler, policy) = (self.compiler.clone(), policy.clone());
        let compiled = tokio::task::spawn_blocking(move || compiler.compile(&policy));
        compiled.await.map_err(|_cancelled| RequestError::Stopping)
    }

    async fn ask<T>(
        &self,
        caller: &Caller,
        request: impl FnOnce(Answer<T>) -> Request,
    ) -> Result<T, RequestError> {
        let (answer, answered) = oneshot::channel();
        let asked = Asked {
            caller: caller.clone(),
            request: request(answer),
        };
        if self.requests.send(asked).await.is_err() {
            return Err(RequestError::Stopping);
        }
        answered.await.unwrap_or(Err(RequestError::Stopping))
    }

    /// Creates an instance, and starts it if its spec says so.
    ///
    /// # Errors
    /// Where it is refused; nothing is left behind then.
    pub async fn create(
        &self,
        caller: &Caller,
        spec: InstanceSpec,
    ) -> Result<InstanceState, RequestError> {
        let compiled = self.compiled(&spec.policy).await?;
        self.ask(caller, |answer| {
            Request::Create(Box::new(spec), compiled, answer)
        })
        .await
    }

    /// Everything for which create would be refused; empty where it would not be. Nothing is reserved.
    ///
    /// # Errors
    /// Where the host cannot be read.
    pub async fn check(
        &self,
        caller: &Caller,
        spec: InstanceSpec,
    ) -> Result<Vec<String>, RequestError> {
        self.ask(caller, |answer| Request::Check(Box::new(spec), answer))
            .await
    }

    /// The instances of the caller's account, in the order in which they were created.
    ///
    /// # Errors
    /// Where the agent is stopping.
    pub async fn list(&self, caller: &Caller) -> Result<Vec<InstanceState>, RequestError> {
        self.ask(caller, Request::List).await
    }

    /// One instance by id or name, with its counters.
    ///
    /// # Errors
    /// Where it does not exist.
    pub async fn inspect(
        &self,
        caller: &Caller,
        key: String,
    ) -> Result<InstanceState, RequestError> {
        self.ask(caller, |answer| Request::Inspect(key, answer))
            .await
    }

    /// Starts an instance; a running one stays as it is.
    ///
    /// # Errors
    /// Where it does not exist.
    pub async fn start(&self, caller: &Caller, key: String) -> Result<InstanceState, RequestError> {
        self.ask(caller, |answer| Request::Start(key, answer)).await
    }

    /// Stops an instance; its reservations stay.
    ///
    /// # Errors
    /// Where it does not exist.
    pub async fn stop(&self, caller: &Caller, key: String) -> Result<InstanceState, RequestError> {
        self.ask(caller, |answer| Request::Stop(key, answer)).await
    }

    /// Deletes an instance; one that others have as their relay only with `force`.
    ///
    /// # Errors
    /// Where it does not exist, or is a relay.
    pub async fn delete(
        &self,
        caller: &Caller,
        key: String,
        force: bool,
    ) -> Result<(), RequestError> {
        self.ask(caller, |answer| Request::Delete(key, force, answer))
            .await
    }

    /// Replaces the published and exposed ports of an instance.
    ///
    /// # Errors
    /// Where it does not exist, or a port cannot be had; nothing is changed then.
    pub async fn publish(
        &self,
        caller: &Caller,
        key: String,
        ports: PortsSpec,
    ) -> Result<InstanceState, RequestError> {
        self.ask(caller, |answer| Request::Publish(key, ports, answer))
            .await
    }

    /// Replaces the policy of an instance.
    ///
    /// # Errors
    /// Where it does not exist.
    pub async fn replace_policy(
        &self,
        caller: &Caller,
        key: String,
        policy: PolicySpec,
    ) -> Result<InstanceState, RequestError> {
        let compiled = self.compiled(&policy).await?;
        let both = Box::new((policy, compiled));
        self.ask(caller, |answer| Request::Policy(key, both, answer))
            .await
    }

    /// Replaces the limits of an instance.
    ///
    /// # Errors
    /// Where it does not exist, or the configuration allows less; nothing is changed then.
    pub async fn replace_limits(
        &self,
        caller: &Caller,
        key: String,
        limits: LimitsSpec,
    ) -> Result<InstanceState, RequestError> {
        self.ask(caller, |answer| Request::Limits(key, limits, answer))
            .await
    }

    /// Takes note of a port that a guest listens on; `false` where it is for another address than the primary's.
    ///
    /// # Errors
    /// Where the instance does not exist.
    pub async fn announce(
        &self,
        caller: &Caller,
        key: String,
        announcement: Announcement,
    ) -> Result<bool, RequestError> {
        self.ask(caller, |answer| {
            Request::Announce(key, announcement, answer)
        })
        .await
    }

    /// The request that made an instance, without its network configuration (I-19).
    ///
    /// # Errors
    /// Where the instance does not exist.
    pub async fn template(&self, caller: &Caller, key: String) -> Result<Template, RequestError> {
        self.ask(caller, |answer| Request::Template(key, answer))
            .await
    }

    /// Whether an instance may be `branched` or `checkpointed` (I-19).
    ///
    /// # Errors
    /// Where it does not exist, or has more than one interface.
    pub async fn check_copyable(
        &self,
        caller: &Caller,
        key: String,
        what: &'static str,
    ) -> Result<(), RequestError> {
        self.ask(caller, |answer| Request::Copyable(key, what, answer))
            .await
    }

    /// What the guest of an instance is to be configured with (G-2).
    ///
    /// # Errors
    /// Where the instance does not exist.
    pub async fn guest(&self, caller: &Caller, key: String) -> Result<GuestConfig, RequestError> {
        self.ask(caller, |answer| Request::Guest(key, answer)).await
    }

    /// What becomes of what the guest of an instance sends, and why (O-3).
    ///
    /// # Errors
    /// Where the instance does not exist.
    pub async fn explain(
        &self,
        caller: &Caller,
        key: String,
        subject: Subject,
    ) -> Result<Explained, RequestError> {
        self.ask(caller, |answer| Request::Explain(key, subject, answer))
            .await
    }

    /// Makes a token for an account.
    ///
    /// # Errors
    /// Where it cannot be stored.
    pub async fn create_token(
        &self,
        caller: &Caller,
        account: AccountName,
        net_manager: bool,
    ) -> Result<NewToken, RequestError> {
        self.ask(caller, |answer| {
            Request::CreateToken(account, net_manager, answer)
        })
        .await
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// Where there is none in force with this id.
    pub async fn revoke_token(&self, caller: &Caller, id: Uuid) -> Result<(), RequestError> {
        self.ask(caller, |answer| Request::RevokeToken(id, answer))
            .await
    }

    /// Every token that was ever made.
    #[must_use]
    pub fn tokens(&self) -> Vec<TokenRecord> {
        self.tokens
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// What the agent would change now.
    ///
    /// # Errors
    /// Where the host cannot be read.
    pub async fn plan(&self, caller: &Caller) -> Result<PlanView, RequestError> {
        self.ask(caller, Request::Plan).await
    }

    /// What keeps the host's part from being in order; `None` where it is.
    ///
    /// # Errors
    /// Where the agent is stopping.
    pub async fn health(&self) -> Result<Option<String>, RequestError> {
        self.ask(&Caller::local("health"), Request::Health).await
    }
}
