//! The full round: observe, plan, apply for everything; and what changes of the host ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use tokio::time::Instant;

use crate::agent::carry_out::has_custom;
use crate::agent::decide::Batch;
use crate::agent::registry::{Held, Key};
use crate::agent::{Agent, PlanView, RequestError, fault, uplink};
use crate::host::{Changes, Host, HostError, one_line};
use crate::instance::{Instance, Life, Origin};
use crate::plan::{self, Group, Owner, Plan, Step, Wanted, WantedDatapath};
use crate::store::Change;

/// How a plan came out.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The reason of the first problem or failed step of each owner.
    pub(crate) failures: BTreeMap<Owner, String>,
    /// The step of the host's part that failed, so that instances went on without it at most.
    pub(crate) blocked: Option<String>,
}

impl<H: Host> Agent<H> {
    /// A full round: everything that is wanted, everything that is there.
    pub(crate) async fn round(&mut self) -> Result<(), HostError> {
        self.observed = self.host.observe().await?;
        self.follow_uplinks();
        self.follow_lent().await;
        self.follow_denied(self.registry.keys());
        self.resume_learned();
        let mut plan = plan::plan(&self.wanted_all(), &self.observed);
        self.pay_route_generation(&mut plan);
        let waiting = self.waiting(Instant::now());
        let outcome = self.apply(plan, &waiting, None).await;
        self.host.settle().await;
        self.note_host(&outcome);
        self.tell_forbidden(true);
        // What should be gone has its turn in every round.
        let skipped = |held: &Held| {
            held.instance.life == Life::Running && waiting.contains(&held.instance.number())
        };
        for key in self.registry.keys() {
            let failure = match self.registry.get(key) {
                Some(held) if skipped(held) => continue,
                Some(held) => outcome.failure_of(held).cloned(),
                None => continue,
            };
            self.registry.note(key, failure);
        }
        self.tell_of_all();
        let keys = self.registry.keys().into_iter().collect();
        let deleted = self.settled_deletes(&keys);
        let mut gone = deleted.iter().filter_map(|key| self.registry.get(*key));
        let custom = gone.any(|held| has_custom(&held.instance));
        self.forget(&deleted);
        if custom {
            // Their addresses were instances' until now: the routes that say so go with them.
            self.host_round().await;
            self.host.settle().await;
        }
        self.follow_ports().await;
        Ok(())
    }

    /// What changed of the host: the instances whose links changed, and where routes or addresses changed,
    /// the host's part.
    pub(crate) async fn follow(&mut self, changes: Changes) -> Result<(), HostError> {
        if changes.overrun {
            return self.round().await;
        }
        if changes.network {
            self.host.observe_host(&mut self.observed).await?;
            self.follow_uplinks();
            self.follow_lent().await;
            let (mtu, leads_out_v6) = self.told;
            if mtu != self.mtu {
                // Every TAP follows the uplink.
                return self.round().await;
            }
            self.host_round().await;
            self.host.settle().await;
            if leads_out_v6 != self.leads_out_v6 {
                self.tell_of_all();
            }
        }
        let now = Instant::now();
        let waiting: BTreeSet<Key> = self
            .registry
            .troubled(now)
            .filter(|(_, due)| !due)
            .map(|(key, _)| key)
            .collect();
        let links = changes.links.iter();
        let changed = links.filter_map(|ifindex| self.registry.by_ifindex(*ifindex));
        let changed: BTreeSet<Key> = changed.collect();
        // A relay that failed may come and go all the same.
        let keys = self.with_clients(&changed);
        let keys: Vec<Key> = keys.difference(&waiting).copied().collect();
        let keys = if changes.network {
            let mut keys = self.with_addressed_ports(keys);
            keys.extend(self.with_other_snat());
            keys
        } else {
            keys
        };
        self.carry_out(&keys).await;
        // Their clients' own links are as they were.
        let greeted = changed.difference(&waiting).copied();
        self.greet(&greeted.collect::<Vec<_>>());
        if changes.network {
            self.follow_ports().await;
        }
        Ok(())
    }

    /// Tries again what failed and whose time has come.
    pub(crate) async fn retry(&mut self) -> Result<(), HostError> {
        if self.host_blocked.is_some() {
            return self.round().await;
        }
        let now = Instant::now();
        let due: Vec<Key> = self
            .registry
            .troubled(now)
            .filter(|(_, due)| *due)
            .map(|(key, _)| key)
            .collect();
        self.carry_out(&due).await;
        Ok(())
    }

    /// The host's part alone: uplink and routes.
    pub(crate) async fn host_round(&mut self) {
        let mut plan = plan::plan(&self.wanted_all(), &self.observed);
        self.pay_route_generation(&mut plan);
        plan.groups.retain(|group| group.owner == Owner::Host);
        plan.problems
            .retain(|problem| problem.owner() == Owner::Host);
        let outcome = self.apply(plan, &BTreeSet::new(), None).await;
        self.note_host(&outcome);
    }

    fn note_host(&mut self, outcome: &Outcome) {
        self.host_trouble = outcome.failures.get(&Owner::Host).cloned();
        self.host_blocked.clone_from(&outcome.blocked);
    }

    /// An existing TAP that its owner made anew has another index: that is a new start of its instance.
    async fn follow_lent(&mut self) {
        let mut batch = Batch::default();
        for key in self.registry.keys() {
            let Some(held) = self.registry.get(key).filter(|held| self.is_replaced(held)) else {
                continue;
            };
            let before = held.clone();
            let mut instance = held.instance.clone();
            if let Err(error) = self.begin_start(&mut instance, &mut batch).await {
                tracing::warn!(reason = one_line(&error), "cannot look at an existing TAP");
                continue;
            }
            batch
                .changes
                .push(Change::Update(Box::new(instance.clone())));
            let changed = before.with(instance);
            batch.replace(key, before);
            self.registry.put(key, changed);
        }
        match self.commit_own(batch) {
            Ok(keys) => self.carry_out(&keys).await,
            Err(error) => {
                tracing::error!(reason = one_line(&error), "an existing TAP is not followed")
            }
        }
    }

    fn is_replaced(&self, held: &Held) -> bool {
        let instance = &held.instance;
        instance.life == Life::Running
            && instance.interfaces.iter().any(|interface| {
                let existing = matches!(interface.origin, Origin::Existing(_));
                let mut links = self.observed.links.iter();
                existing
                    && !self.observed.links.contains_key(&interface.ifindex)
                    && links.any(|(_, link)| link.tap && link.name == interface.tap_name)
            })
    }

    /// Applies a plan: a step that fails ends its group. Where it is the host's, or the host's part was `blocked` before,
    /// instances go on without it: what denies never waits.
    pub(crate) async fn apply(
        &mut self,
        plan: Plan,
        waiting: &BTreeSet<u32>,
        blocked: Option<String>,
    ) -> Outcome {
        let mut outcome = Outcome {
            blocked,
            ..Outcome::default()
        };
        // Where it is not loaded, nobody saw what is attached: the plan would take down TAPs that may be closed.
        let is_loaded = self.observed.datapath.is_some();
        let (moves_routes, moves_ports) = (
            plan.steps().any(Step::moves_routes),
            plan.steps().any(|step| matches!(step, Step::Port(_))),
        );
        for problem in &plan.problems {
            let reason = problem.to_string();
            let instance = self.name_of(problem.owner());
            tracing::warn!(instance, reason, "cannot be mended");
            outcome.failures.entry(problem.owner()).or_insert(reason);
        }
        for group in plan.groups {
            let group = match group.owner {
                Owner::Instance(number) if waiting.contains(&number) => continue,
                Owner::Instance(_) if outcome.blocked.is_some() && !is_loaded => continue,
                Owner::Instance(_) if outcome.blocked.is_some() => group.without_host(),
                Owner::Instance(_) | Owner::Host | Owner::Leftover | Owner::Unnamed => group,
            };
            if let Err(error) = self.apply_group(&group).await {
                let reason = one_line(&error);
                tracing::warn!(instance = self.name_of(group.owner), reason, "step failed");
                self.raise_owed |= group.steps.contains(&Step::RaiseRouteGeneration);
                if group.owner == Owner::Host {
                    outcome.blocked = Some(reason.clone());
                }
                outcome.failures.insert(group.owner, reason);
            }
        }
        if moves_routes || moves_ports {
            self.tell_forbidden(moves_routes);
        }
        outcome
    }

    async fn apply_group(&mut self, group: &Group) -> Result<(), HostError> {
        for step in &group.steps {
            tracing::debug!(instance = self.name_of(group.owner), %step, "apply");
            fault::boundary();
            self.close_before(step)?;
            self.host.apply(step).await?;
            self.observed.follow(step);
            if *step == Step::LoadDatapath {
                self.read_learned();
            }
            if *step == Step::ServeGuests {
                self.start_servers();
            }
            if *step == Step::RaiseRouteGeneration {
                self.raise_owed = false;
            }
        }
        fault::boundary();
        Ok(())
    }

    /// Route changes whose generation could not be raised leave no other trace in what is observed.
    fn pay_route_generation(&self, plan: &mut Plan) {
        if self.raise_owed && !plan.steps().any(|step| *step == Step::RaiseRouteGeneration) {
            let steps = vec![Step::RaiseRouteGeneration];
            let owner = Owner::Host;
            plan.groups.insert(0, Group { owner, steps });
        }
    }

    /// Takes the uplinks and their MTU from the observation. Where none is found the last ones stay.
    pub(crate) fn follow_uplinks(&mut self) {
        let observed = &self.observed;
        let uplinks = uplink::choose(&self.config.uplink, observed).unwrap_or_else(|error| {
            tracing::warn!(%error, "the uplink stays as it was");
            self.uplinks.kept(observed)
        });
        let mtu = uplinks.mtu(observed).unwrap_or(self.mtu);
        if (&self.uplinks, self.mtu) != (&uplinks, mtu) {
            let names: Vec<&str> = uplinks.found.values().map(String::as_str).collect();
            tracing::info!(uplinks = names.join(" "), mtu, "uplinks");
        }
        self.leads_out_v6 = uplink::has_default_v6(&uplinks, observed);
        (self.uplinks, self.mtu) = (uplinks, mtu);
    }

    pub(crate) fn wanted_all(&self) -> Wanted {
        self.wanted(self.registry.all().map(|(_, held)| &held.instance))
    }

    pub(crate) fn wanted<'a>(
        &self,
        instances: impl Iterator<Item = &'a Instance> + Clone,
    ) -> Wanted {
        let open: BTreeSet<IpNet> = self.config.policy.open.iter().copied().collect();
        let mut always_denied = plan::routes::always_denied();
        always_denied.retain(|prefix| !open.contains(prefix));
        Wanted {
            store_id: self.store_id,
            datapath: WantedDatapath {
                uplinks: self.uplinks.indices(),
                missing_uplinks: self.uplinks.missing.clone(),
                ports: self.config.nat.ports,
                pools: self.guest_prefixes(),
                always_denied,
                open,
                host_ports: self.config.policy.allow_host_ports.clone(),
            },
            interfaces: instances
                .clone()
                .flat_map(|instance| self.wanted_interfaces(instance))
                .collect(),
            ports: instances
                .filter(|instance| instance.life == Life::Running)
                .map(|instance| (instance.number(), self.wanted_ports(instance)))
                .collect(),
            policies: self.wanted_policies(),
            lent: self.all_lent(),
        }
    }

    /// Where instances and their gateways are, running or not.
    pub(crate) fn guest_prefixes(&self) -> Vec<IpNet> {
        let interfaces = self
            .registry
            .all()
            .flat_map(|(_, held)| &held.instance.interfaces);
        let custom = interfaces
            .filter(|interface| interface.origin != Origin::Pool)
            .flat_map(|interface| {
                // By the broadcast addresses of its network, and by its any-router address (RFC 4291 section 2.6.1), a
                // guest that forwards is reached as well.
                let network = interface.guest_v4;
                let v4 = [
                    network.addr(),
                    interface.host_v4.addr(),
                    network.network(),
                    network.broadcast(),
                ];
                let v6 = interface.guest_v6.iter();
                let v6 = v6.flat_map(|network| [network.addr(), network.network()]);
                v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6))
            });
        let mut prefixes = self.pool.prefixes();
        prefixes.extend(custom.map(IpNet::from));
        prefixes
    }

    /// Numbers of the instances that failed and whose time has not come.
    fn waiting(&self, now: Instant) -> BTreeSet<u32> {
        let troubled = self.registry.troubled(now);
        troubled
            .filter(|(_, due)| !due)
            .filter_map(|(key, _)| Some(self.registry.get(key)?.instance.number()))
            .collect()
    }

    fn name_of(&self, owner: Owner) -> Option<&str> {
        match owner {
            Owner::Host | Owner::Leftover | Owner::Unnamed => None,
            Owner::Instance(number) => {
                let held = self.registry.by_number(number)?;
                Some(held.instance.name.as_str())
            }
        }
    }

    /// What a round would do now.
    pub(crate) async fn show_plan(&mut self) -> Result<PlanView, RequestError> {
        self.observed = self.host.observe().await?;
        self.follow_uplinks();
        let mut plan = plan::plan(&self.wanted_all(), &self.observed);
        self.pay_route_generation(&mut plan);
        let named = |owner| self.name_of(owner).map(str::to_owned);
        let steps = plan.groups.iter().flat_map(|group| {
            let steps = group.steps.iter();
            steps.map(move |step| (named(group.owner), step.to_string()))
        });
        let problems = plan
            .problems
            .iter()
            .map(|problem| (named(problem.owner()), problem.to_string()));
        Ok(PlanView {
            steps: steps.collect(),
            problems: problems.collect(),
        })
    }
}

impl Outcome {
    fn failure_of(&self, held: &Held) -> Option<&String> {
        match held.instance.life {
            Life::Running => self
                .failures
                .get(&Owner::Instance(held.instance.number()))
                .or(self.blocked.as_ref()),
            // One that should be gone has only what is left of it to fail by.
            Life::Pending | Life::Stopped => self
                .failures
                .get(&Owner::Leftover)
                .filter(|_| held.trouble.is_some()),
            Life::Deleting => self.failures.get(&Owner::Leftover),
        }
    }
}
