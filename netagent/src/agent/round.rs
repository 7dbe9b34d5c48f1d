//! One round: observe, plan, apply; and what failed is tried again later.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::instance::{Instance, Life, Trouble};
use crate::agent::{Agent, PlanView, RequestError, uplink};
use crate::host::{Host, HostError, one_line};
use crate::plan::{self, Group, Owner, Plan, Step, Wanted, WantedDatapath};

/// The longest wait before a failed instance is tried again.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How a plan came out.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The reason of the first problem or failed step of each owner.
    pub(crate) failures: BTreeMap<Owner, String>,
    /// The step of the host's part that failed, so that no instance had its turn.
    pub(crate) blocked: Option<String>,
}

impl<H: Host> Agent<H> {
    /// A full round: everything that is wanted, everything that is there.
    pub(crate) async fn round(&mut self) -> Result<(), HostError> {
        self.observed = self.host.observe().await?;
        self.follow_uplink();
        let wanted = self.wanted_all();
        let mut plan = plan::plan(&wanted, &self.observed);
        self.pay_route_generation(&mut plan);
        let waiting = self.waiting(Instant::now());
        let outcome = self.apply(plan, &waiting).await;
        self.host_trouble = outcome.failures.get(&Owner::Host).cloned();
        self.host_blocked.clone_from(&outcome.blocked);
        if !outcome.failures.contains_key(&Owner::Leftover) {
            for reservation in std::mem::take(&mut self.doomed) {
                self.reservations.release(&reservation);
            }
        }
        for instance in &mut self.instances {
            if !waiting.contains(&instance.number()) {
                let failure = outcome.failure_of(instance).cloned();
                instance.note(failure);
            }
        }
        Ok(())
    }

    /// Applies a plan: a step that fails ends its group; the host's group ends the plan.
    pub(crate) async fn apply(&mut self, plan: Plan, waiting: &BTreeSet<u32>) -> Outcome {
        let mut outcome = Outcome::default();
        for problem in &plan.problems {
            let reason = problem.to_string();
            tracing::warn!(
                instance = self.name_of(problem.owner()),
                reason,
                "cannot be mended"
            );
            outcome.failures.entry(problem.owner()).or_insert(reason);
        }
        for group in plan.groups {
            let skipped = match group.owner {
                Owner::Instance(number) => outcome.blocked.is_some() || waiting.contains(&number),
                Owner::Host | Owner::Leftover => false,
            };
            if skipped {
                continue;
            }
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
        outcome
    }

    async fn apply_group(&mut self, group: &Group) -> Result<(), HostError> {
        for step in &group.steps {
            tracing::debug!(instance = self.name_of(group.owner), %step, "apply");
            self.host.apply(step).await?;
            self.observed.follow(step);
            if *step == Step::RaiseRouteGeneration {
                self.raise_owed = false;
            }
        }
        Ok(())
    }

    /// Route changes whose generation could not be raised leave no other trace in what is observed.
    fn pay_route_generation(&self, plan: &mut Plan) {
        if self.raise_owed && !plan.steps().any(|step| *step == Step::RaiseRouteGeneration) {
            let steps = vec![Step::RaiseRouteGeneration];
            plan.groups.insert(
                0,
                Group {
                    owner: Owner::Host,
                    steps,
                },
            );
        }
    }

    /// Takes the uplink and its MTU from the observation. Where none is found the last one stays.
    pub(crate) fn follow_uplink(&mut self) {
        match uplink::choose(self.config.uplink.as_deref(), &self.observed) {
            Ok(ifindex) => {
                if let Some(link) = self.observed.links.get(&ifindex) {
                    if self.uplink != Some(ifindex) || self.mtu != link.mtu {
                        tracing::info!(uplink = link.name, ifindex, mtu = link.mtu, "uplink");
                    }
                    self.mtu = link.mtu;
                }
                self.uplink = Some(ifindex);
            }
            Err(error) => tracing::warn!(%error, "the uplink stays as it was"),
        }
    }

    fn wanted_all(&self) -> Wanted {
        self.wanted(self.instances.iter())
    }

    pub(crate) fn wanted<'a>(&self, instances: impl Iterator<Item = &'a Instance>) -> Wanted {
        Wanted {
            store_id: self.store_id,
            datapath: WantedDatapath {
                uplinks: self.uplink.into_iter().collect(),
                pools: self.pool.prefixes(),
                always_denied: plan::routes::always_denied(),
            },
            interfaces: instances
                .flat_map(|instance| instance.wanted(self.mtu, self.config.limits.flows))
                .collect(),
        }
    }

    /// Numbers of the instances that failed and whose time has not come.
    fn waiting(&self, now: Instant) -> BTreeSet<u32> {
        let waits = |instance: &&Instance| {
            instance
                .trouble
                .as_ref()
                .is_some_and(|trouble| trouble.retry_at > now)
        };
        self.instances
            .iter()
            .filter(waits)
            .map(Instance::number)
            .collect()
    }

    fn name_of(&self, owner: Owner) -> Option<&str> {
        match owner {
            Owner::Host | Owner::Leftover => None,
            Owner::Instance(number) => self
                .instances
                .iter()
                .find(|instance| instance.number() == number)
                .map(|instance| instance.name.as_str()),
        }
    }

    /// What a round would do now.
    pub(crate) async fn show_plan(&mut self) -> Result<PlanView, RequestError> {
        self.observed = self.host.observe().await?;
        self.follow_uplink();
        let mut plan = plan::plan(&self.wanted_all(), &self.observed);
        self.pay_route_generation(&mut plan);
        let named = |owner| self.name_of(owner).map(str::to_owned);
        let steps = plan.groups.iter().flat_map(|group| {
            group
                .steps
                .iter()
                .map(move |step| (named(group.owner), step.to_string()))
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
    fn failure_of(&self, instance: &Instance) -> Option<&String> {
        match instance.life {
            Life::Running => self
                .failures
                .get(&Owner::Instance(instance.number()))
                .or(self.blocked.as_ref()),
            // One that should be gone has only what is left of it to fail by.
            Life::Pending | Life::Stopped => self
                .failures
                .get(&Owner::Leftover)
                .filter(|_| instance.trouble.is_some()),
        }
    }
}

impl Instance {
    /// Records what an attempt met: nothing, or a reason that doubles the wait.
    pub(crate) fn note(&mut self, failure: Option<String>) {
        let failures = self.trouble.as_ref().map_or(0, |trouble| trouble.failures);
        self.trouble = failure.map(|reason| {
            let wait = Duration::from_secs(1 << failures.min(6)).min(RETRY_MAX);
            Trouble {
                reason,
                failures: failures + 1,
                retry_at: Instant::now() + wait,
            }
        });
    }
}
