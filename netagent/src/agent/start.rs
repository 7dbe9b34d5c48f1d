//! The start: what is stored, what is there, and the round that makes them one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::agent::audit::Audited;
use crate::agent::drop_all::Denied;
use crate::agent::handle::SharedTokens;
use crate::agent::policy::Compiler;
use crate::agent::quarantine::Quarantine;
use crate::agent::registry::Registry;
use crate::agent::store_id::{self, StoreId};
use crate::agent::uplink::{self, UplinkError, Uplinks};
use crate::agent::{Agent, AgentHandle, REQUESTS_MAX};
use crate::config::Config;
use crate::config::nat::Filtering;
use crate::dns::upstream::Upstreams;
use crate::host::{Cleaned, Host, HostError, HostOptions, one_line};
use crate::instance::{Instance, Origin};
use crate::ipam::{Pool, Reservations};
use crate::plan::{KernelRoute, Observed, ObservedLink};
use crate::publish::{BOUNDS, Listeners};
use crate::store::{Store, StoreError, Stored};

/// File of the database in the state directory.
const DATABASE: &str = "netagent.db";

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory or its lock.
    #[error(transparent)]
    StateDir(#[from] store_id::StoreError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No usable uplink, or the pool stands in its way.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// Stored addresses are not those of the configured pool.
    #[error(
        "instance '{instance}' holds {address}, which is not slot {slot} of pool.subnet {pool}: put pool.subnet and pool.gateway back to what they were, or delete the instance first"
    )]
    PoolChanged {
        /// Its name.
        instance: String,
        /// The address.
        address: ipnet::Ipv4Net,
        /// Its slot.
        slot: u32,
        /// The configured pool.
        pool: ipnet::Ipv4Net,
    },
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
        eim_ports: config.nat.eim_ports,
        filters_nobody: config.nat.filtering == Filtering::Endpoint,
        timeouts: config.nat.timeouts.seconds(),
        mark: id.mark,
    }
}

/// Opens the database of a state directory.
///
/// # Errors
/// Where it is damaged, of a newer version, or cannot be written; nothing is overwritten then.
pub fn open_store(config: &Config) -> Result<Store, StoreError> {
    Store::open(&config.state_dir.join(DATABASE))
}

/// Reads what is stored, looks at the host, and does the first round: afterwards they agree.
///
/// # Errors
/// One line that says what is wrong and how to mend it.
pub async fn start<H: Host>(
    mut host: H,
    config: Config,
    id: &StoreId,
    store: Store,
) -> Result<(Agent<H>, AgentHandle), StartError> {
    let observed = host.observe().await?;
    let uplinks = uplink::choose(&config.uplink, &observed)?;
    let pool = pool(&config, id, &uplinks, &observed);
    let prefixes = pool.prefixes();
    let upstreams = Upstreams::new(&config.dns);
    let resolvers = upstreams.servers(None, Instant::now());
    let resolvers: Vec<IpAddr> = resolvers.iter().map(SocketAddr::ip).collect();
    let overlapping = uplink::check_pools(&prefixes, &resolvers, &uplinks, &observed)?;
    warn_of_routes(&overlapping, &observed, id);
    log_pool(&pool);
    let stored = store.load()?;
    check_pool(&stored.instances, &pool)?;
    let (sender, requests) = mpsc::channel(REQUESTS_MAX);
    let mut agent = Agent {
        listeners: Listeners::new(host.leads(), BOUNDS),
        port_trouble: BTreeMap::new(),
        host,
        store,
        store_id: id.store_id,
        reservations: reservations(&stored),
        registry: Registry::default(),
        compiler: Arc::new(Compiler::new(&config.policy, &pool)),
        pool,
        config,
        observed,
        uplinks: Uplinks::default(),
        mtu: 0,
        next_generation: stored.next_generation.max(1),
        next_publication: stored.next_publication.max(1),
        denied: Denied::default(),
        quarantine: Quarantine::default(),
        audited: Audited::default(),
        raise_owed: false,
        host_trouble: None,
        host_blocked: None,
        directory: Arc::default(),
        upstreams: Arc::new(upstreams),
        servers: None,
        learned: Arc::default(),
        leads_out_v6: false,
        told: (0, false),
        requests,
        tokens: SharedTokens::default(),
    };
    tracing::info!(instances = stored.instances.len(), "stored");
    for instance in stored.instances {
        let compiled = agent.compiler.compile(&instance.policy);
        agent.registry.insert(instance, compiled);
    }
    agent.with_tokens(|tokens| *tokens = stored.tokens);
    agent.judge_anew_by_configuration();
    agent.denied.take_over(&agent.observed);
    if agent.config.policy.quarantine_pps.is_some() {
        agent.quarantine.take_over(&agent.observed, Instant::now());
    }
    agent.round().await?;
    match agent.host_blocked.take() {
        Some(reason) => Err(StartError::Datapath(reason)),
        None => {
            let handle = AgentHandle::new(sender, agent.tokens.clone(), agent.compiler.clone());
            Ok((agent, handle))
        }
    }
}

/// Takes everything that agents of this store made off the host, and gives back what was lent (S-4). What is
/// stored stays: the next start brings it back.
///
/// # Errors
/// Where the host cannot be read, or something cannot be removed. A database that cannot be read is no error.
pub async fn take_down<H: Host>(
    host: &mut H,
    id: &StoreId,
    store: Option<&Store>,
) -> Result<Cleaned, StartError> {
    let stored = store
        .and_then(|store| store.load().ok())
        .unwrap_or_default();
    let prefix = crate::plan::alias_prefix(id.store_id);
    let interfaces = stored.instances.iter().flat_map(|one| &one.interfaces);
    let mut lent = BTreeMap::new();
    let mut slots = BTreeSet::new();
    for interface in interfaces {
        if let Origin::Existing(before) = &interface.origin {
            lent.insert(format!("{prefix}{}:lent", interface.id), before.clone());
            slots.extend(interface.slots());
        }
    }
    let aliases = lent.keys().cloned().collect();
    let observed = host.observe().await?;
    let plan = crate::plan::plan_stop(&aliases, &slots, &lent, &observed);
    for step in plan.steps() {
        host.apply(step).await?;
    }
    let cleaned = host.clean().await?;
    host.settle().await;
    Ok(cleaned)
}

fn warn_of_routes(overlapping: &[KernelRoute], observed: &Observed, id: &StoreId) {
    let own = crate::plan::alias_prefix(id.store_id);
    for route in overlapping {
        let link = observed.links.get(&route.ifindex);
        if !link.is_some_and(|link| is_own(link, &own)) {
            let device = link.map(|link| link.name.as_str());
            tracing::warn!(route = %route.destination, device, "the pool overlaps this route: its addresses are out of reach for guests");
        }
    }
}

fn is_own(link: &ObservedLink, prefix: &str) -> bool {
    let alias = link.alias.as_ref();
    alias.is_some_and(|alias| alias.starts_with(prefix))
}

fn reservations(stored: &Stored) -> Reservations {
    let mut reservations = Reservations::default();
    for interface in stored.instances.iter().flat_map(|one| &one.interfaces) {
        reservations.hold(interface.slot, &interface.tap_name);
        if let Some(relay) = &interface.relay {
            reservations.hold_leg(relay.leg);
        }
    }
    for (slot, uses) in &stored.slot_uses {
        reservations.set_uses(*slot, *uses);
    }
    reservations
}

/// A pool that was changed under its instances would give their addresses away a second time.
fn check_pool(instances: &[Instance], pool: &Pool) -> Result<(), StartError> {
    for instance in instances {
        for interface in &instance.interfaces {
            let moved = interface.origin == Origin::Pool
                && (interface.slot >= pool.slots()
                    || pool.addresses(interface.slot).guest_v4 != interface.guest_v4);
            if moved {
                return Err(StartError::PoolChanged {
                    instance: instance.name.to_string(),
                    address: interface.guest_v4,
                    slot: interface.slot,
                    pool: pool.subnet,
                });
            }
        }
    }
    Ok(())
}

fn pool(config: &Config, id: &StoreId, uplinks: &Uplinks, observed: &Observed) -> Pool {
    let subnet6 = config.pool.subnet6.unwrap_or(id.subnet6);
    Pool {
        subnet: config.pool.subnet,
        subnet6: uplink::has_v6(uplinks, observed).then_some(subnet6),
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
