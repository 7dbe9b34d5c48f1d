//! The part that belongs to no instance: datapath, routes, uplink.

use std::collections::BTreeSet;

use crate::plan::{
    Observed, ObservedDatapath, Owner, Plan, Problem, Step, Wanted, alias_prefix, routes,
};

/// Datapath first, then routes, so that `from_uplink` and every TAP find them.
pub(crate) fn plan_host(wanted: &Wanted, observed: &Observed, plan: &mut Plan) {
    let mut steps = Vec::new();
    let empty = ObservedDatapath::default();
    let datapath = observed.datapath.as_ref().unwrap_or_else(|| {
        steps.push(Step::LoadDatapath);
        &empty
    });
    steps.extend(
        datapath
            .severed
            .iter()
            .map(|name| Step::RemoveSeveredPin { name: name.clone() }),
    );
    let (target, too_many) = routes::compile(wanted, observed);
    plan.problems.extend(too_many);
    steps.extend(routes::plan_routes(&datapath.routes, &target));
    plan_uplinks(wanted, observed, datapath, &mut steps, &mut plan.problems);
    plan.push(Owner::Host, steps);
}

fn plan_uplinks(
    wanted: &Wanted,
    observed: &Observed,
    datapath: &ObservedDatapath,
    steps: &mut Vec<Step>,
    problems: &mut Vec<Problem>,
) {
    let prefix = alias_prefix(wanted.store_id);
    let taps: BTreeSet<u32> = wanted
        .interfaces
        .values()
        .map(|interface| interface.tap.ifindex)
        .collect();
    for ifindex in &wanted.datapath.uplinks {
        match observed.links.get(ifindex) {
            Some(_) if datapath.attached.contains(ifindex) => {}
            Some(link) => steps.push(Step::AttachUplink {
                ifindex: *ifindex,
                name: link.name.clone(),
            }),
            None => problems.push(Problem::UplinkGone { ifindex: *ifindex }),
        }
    }
    for ifindex in &datapath.attached {
        let tap = taps.contains(ifindex)
            || observed
                .links
                .get(ifindex)
                .is_some_and(|link| link.is_of(&prefix));
        if !tap && !wanted.datapath.uplinks.contains(ifindex) {
            steps.push(Step::DetachUplink { ifindex: *ifindex });
        }
    }
}
