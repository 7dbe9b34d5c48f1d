//! The start: clean up, look, check, and the first round.

use tokio::sync::mpsc;

use crate::agent::handle::SharedTokens;
use crate::agent::store_id::{StoreError, StoreId};
use crate::agent::uplink::{self, UplinkError};
use crate::agent::{Agent, AgentHandle, REQUESTS_MAX};
use crate::config::Config;
use crate::host::{Cleaned, Host, HostError, HostOptions, one_line};
use crate::ipam::{Pool, Reservations};
use crate::plan::Observed;

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory or its lock.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No usable uplink, or the pool stands in its way.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// The host cannot be worked on.
    #[error("{}", with_remedy(.0))]
    Host(#[from] HostError),
    /// A step of the host's part failed.
    #[error("{0}: `netagent doctor` says what is missing")]
    Datapath(String),
}

/// The error on one line, with what to do where it does not say so itself.
fn with_remedy(error: &HostError) -> String {
    let text = one_line(error);
    match error {
        HostError::Missing { .. } => text,
        HostError::Failed { .. } => format!("{text}: `netagent doctor` says what is missing"),
    }
}

/// What the kernel's host needs, from configuration and store.
#[must_use]
pub fn host_options(config: &Config, id: &StoreId) -> HostOptions {
    HostOptions {
        bpf_dir: config.bpf_dir.clone(),
        state_dir: config.state_dir.clone(),
        store_id: id.store_id,
        attach: config.datapath.attach,
        expedite_rcu: config.datapath.expedite_rcu,
        flows_max: config.datapath.flows,
        instances_max: config.limits.instances,
        nat_ports: (config.nat.ports.first, config.nat.ports.count()),
        mark: id.mark,
    }
}

/// Removes what an earlier agent left, and says so.
///
/// # Errors
/// Where something cannot be removed.
pub async fn clean_host<H: Host>(host: &mut H) -> Result<Cleaned, HostError> {
    let cleaned = host.clean().await?;
    if !cleaned.links.is_empty() || cleaned.pins > 0 {
        let links = cleaned.links.join(" ");
        tracing::info!(
            links,
            pins = cleaned.pins,
            "removed what an earlier agent left"
        );
    }
    Ok(cleaned)
}

/// Cleans the host, finds the uplink, and does the first round.
///
/// # Errors
/// One line that says what is wrong and how to mend it.
pub async fn start<H: Host>(
    mut host: H,
    config: Config,
    id: &StoreId,
) -> Result<(Agent<H>, AgentHandle), StartError> {
    // A start that cannot work must not take down what another agent left working.
    let before = host.observe().await?;
    let uplink = uplink::choose(config.uplink.as_deref(), &before)?;
    uplink::check_pools(
        &pool(&config, id, uplink, &before).prefixes(),
        uplink,
        &before,
    )?;
    clean_host(&mut host).await?;
    let observed = host.observe().await?;
    let pool = pool(&config, id, uplink, &observed);
    log_pool(&pool);
    let (sender, requests) = mpsc::channel(REQUESTS_MAX);
    let mut agent = Agent {
        host,
        config,
        store_id: id.store_id,
        pool,
        reservations: Reservations::default(),
        doomed: Vec::new(),
        instances: Vec::new(),
        observed,
        uplink: None,
        mtu: 0,
        next_generation: 1,
        raise_owed: false,
        host_trouble: None,
        host_blocked: None,
        requests,
        tokens: SharedTokens::default(),
    };
    for route in uplink::check_pools(&agent.pool.prefixes(), uplink, &agent.observed)? {
        let device = agent
            .observed
            .links
            .get(&route.ifindex)
            .map(|link| link.name.as_str());
        tracing::warn!(route = %route.destination, device, "the pool overlaps this route: its addresses are out of reach for guests");
    }
    agent.round().await?;
    match agent.host_blocked.take() {
        Some(reason) => Err(StartError::Datapath(reason)),
        None => {
            let handle = AgentHandle::new(sender, agent.tokens.clone());
            Ok((agent, handle))
        }
    }
}

fn pool(config: &Config, id: &StoreId, uplink: u32, observed: &Observed) -> Pool {
    let subnet6 = config.pool.subnet6.unwrap_or(id.subnet6);
    Pool {
        subnet: config.pool.subnet,
        subnet6: uplink::has_v6(uplink, observed).then_some(subnet6),
        gateway: config.pool.gateway,
        tap_prefix: config.pool.tap_prefix.clone(),
    }
}

fn log_pool(pool: &Pool) {
    match pool.subnet6 {
        Some(subnet6) => tracing::info!(subnet = %pool.subnet, %subnet6, "pool"),
        None => {
            tracing::info!(subnet = %pool.subnet, "pool; the uplink has no IPv6, so guests get none")
        }
    }
}
