mod drop_all;
mod follow;
mod forbidden;
mod learned;
mod life;
mod policy;
mod publish;
mod refusals;
mod relay;
mod restart;
mod snat;
mod trouble;

use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv6Net;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::state::InstanceState;
use super::state::Status;
use super::store_id::StoreId;
use super::*;
use crate::access::Caller;
use crate::host::fake::{FakeHost, UPLINK, host};
use crate::plan::ObservedLink;
use crate::spec::InstanceSpec;

/// Longest wait for a condition.
const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) fn store_id() -> StoreId {
    StoreId {
        store_id: Uuid::from_u128(7),
        subnet6: Ipv6Net::new_assert("fd12:3456:789a::".parse().unwrap(), 48),
        mark: 9,
    }
}

/// An agent that runs on a fake host, until it is told to end.
pub(crate) struct Running {
    pub(crate) host: FakeHost,
    pub(crate) handle: Local,
    pub(crate) end: Arc<Notify>,
    pub(crate) task: JoinHandle<()>,
    pub(crate) directory: Arc<TempDir>,
}

/// Asks as one who speaks through the unix socket.
#[derive(Clone)]
pub(crate) struct Local(pub(crate) AgentHandle);

impl Local {
    pub(crate) async fn create(&self, spec: InstanceSpec) -> Result<InstanceState, RequestError> {
        self.0.create(&caller(), spec).await
    }

    async fn list(&self) -> Result<Vec<InstanceState>, RequestError> {
        self.0.list(&caller()).await
    }

    async fn inspect(&self, key: String) -> Result<InstanceState, RequestError> {
        self.0.inspect(&caller(), key).await
    }

    async fn start(&self, key: String) -> Result<InstanceState, RequestError> {
        self.0.start(&caller(), key).await
    }

    async fn stop(&self, key: String) -> Result<InstanceState, RequestError> {
        self.0.stop(&caller(), key).await
    }

    async fn delete(&self, key: String) -> Result<(), RequestError> {
        self.0.delete(&caller(), key, false).await
    }

    async fn delete_by_force(&self, key: &str) -> Result<(), RequestError> {
        self.0.delete(&caller(), key.into(), true).await
    }

    async fn plan(&self) -> Result<PlanView, RequestError> {
        self.0.plan(&caller()).await
    }

    async fn health(&self) -> Result<Option<String>, RequestError> {
        self.0.health().await
    }
}

fn caller() -> Caller {
    Caller::local("test")
}

fn store_in(directory: &TempDir) -> Store {
    Store::open(&directory.path().join("netagent.db")).unwrap()
}

pub(crate) async fn running(host: FakeHost, config: Config) -> Running {
    running_on(host, config, Arc::new(TempDir::new().unwrap())).await
}

/// On the database of an agent before it.
async fn running_on(host: FakeHost, config: Config, directory: Arc<TempDir>) -> Running {
    let (agent, handle) = start(host.clone(), config, &store_id(), store_in(&directory))
        .await
        .unwrap();
    let end = Arc::new(Notify::new());
    let ended = end.clone();
    let task = tokio::spawn(agent.run(async move { ended.notified().await }));
    Running {
        host,
        handle: Local(handle),
        end,
        task,
        directory,
    }
}

impl Running {
    async fn ended(self) -> (FakeHost, Arc<TempDir>) {
        self.end.notify_one();
        self.task.await.unwrap();
        (self.host, self.directory)
    }
}

async fn agent() -> Running {
    running(host(), Config::default()).await
}

fn spec(text: &str) -> InstanceSpec {
    InstanceSpec::parse(text.as_bytes(), crate::spec::Grant::ALL).unwrap()
}

fn tap_names(host: &FakeHost) -> Vec<String> {
    let links = &host.state().observed.links;
    links
        .values()
        .filter(|link| link.alias.is_some())
        .map(|link| link.name.clone())
        .collect()
}

async fn wait_for(what: &str, condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect(what);
}
