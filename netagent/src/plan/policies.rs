//! Compiled policies: there before a record names them, and gone when none does. A policy is named after what it says,
//! so one that is there is never written again, and instances of which the same is wanted share it.

use std::collections::BTreeSet;

use netagent_common::policy::{NO_POLICY, PolicyId};

use crate::plan::{Observed, Owner, Plan, Step, Wanted, WantedInterface};

/// The policies that the records of an interface and of its leg name. Each instance that names it has the step, where it is missing:
/// another's may fail or not be taken.
pub(crate) fn plan_named(
    interface: &WantedInterface,
    wanted: &Wanted,
    observed: &Observed,
    steps: &mut Vec<Step>,
) {
    let leg = interface.leg.as_ref().map(|leg| leg.policy);
    for id in std::iter::once(interface.record.policy).chain(leg) {
        plan_policy(id, wanted, observed, steps);
    }
}

fn plan_policy(id: PolicyId, wanted: &Wanted, observed: &Observed, steps: &mut Vec<Step>) {
    let is_there = observed
        .datapath
        .as_ref()
        .is_some_and(|datapath| datapath.policies.contains(&id));
    let is_it = |step: &Step| matches!(step, Step::WritePolicy { policy } if policy.id == id);
    if id == NO_POLICY || is_there || steps.iter().any(is_it) {
        return;
    }
    if let Some(policy) = wanted.policies.get(&id) {
        let policy = policy.clone();
        steps.push(Step::WritePolicy { policy });
    }
}

/// Policies of no instance that runs; the last steps of a plan.
pub(crate) fn plan_unwanted(wanted: &Wanted, observed: &Observed, plan: &mut Plan) {
    let Some(datapath) = &observed.datapath else {
        return;
    };
    let there = datapath.policies.iter();
    let unwanted = there
        .chain(&datapath.half_policies)
        .filter(|id| !wanted.policies.contains_key(*id));
    plan_unnamed(unwanted.copied().collect(), observed, plan);
}

/// Policies that only these slots name, which are cleared.
pub(crate) fn plan_cleared(slots: &BTreeSet<u32>, observed: &Observed, plan: &mut Plan) {
    let Some(datapath) = &observed.datapath else {
        return;
    };
    let cleared = slots
        .iter()
        .filter_map(|slot| datapath.interfaces.get(slot));
    let named = cleared.map(|record| record.policy);
    let named = named.filter(|id| datapath.policies.contains(id));
    plan_unnamed(named.collect(), observed, plan);
}

/// Keeps what a record names that the plan leaves as it is, or writes.
fn plan_unnamed(mut ids: BTreeSet<PolicyId>, observed: &Observed, plan: &mut Plan) {
    if ids.is_empty() {
        return;
    }
    let mut replaced = BTreeSet::new();
    for step in plan.steps() {
        if let Step::WriteInterface { record } = step {
            ids.remove(&record.policy);
            replaced.insert(record.slot);
        } else if let Step::ClearInterface { slot } = step {
            replaced.insert(*slot);
        }
    }
    let in_force = observed.datapath.iter();
    let in_force = in_force.flat_map(|datapath| datapath.interfaces.values());
    for record in in_force.filter(|record| !replaced.contains(&record.slot)) {
        ids.remove(&record.policy);
    }
    for id in ids {
        plan.push(Owner::Unnamed, vec![Step::RemovePolicy { id }]);
    }
}
