//! The part that belongs to no instance: datapath, ports of the host, uplink, routes.

use std::collections::BTreeSet;

use crate::config::{PortRange, ports};
use crate::plan::{
    Observed, ObservedDatapath, Owner, Plan, Problem, ReservedPorts, Step, Wanted, alias_prefix,
    routes,
};

/// A new uplink before the routes through it, so that no answer comes before `from_uplink` waits for it; an old
/// one after them and the generation, when no flow leaves there any more.
pub(crate) fn plan_host(wanted: &Wanted, observed: &Observed, plan: &mut Plan) {
    let mut steps = Vec::new();
    let empty = ObservedDatapath::default();
    let datapath = observed.datapath.as_ref().unwrap_or_else(|| {
        steps.push(Step::LoadDatapath);
        &empty
    });
    if datapath.stale {
        steps.push(Step::LoadDatapath);
    }
    // Before any of them stands for a guest.
    if !are_reserved(wanted.datapath.ports, &observed.reserved_ports) {
        let ports = wanted.datapath.ports;
        steps.insert(0, Step::ReservePorts { ports });
    }
    steps.extend(
        datapath
            .severed
            .iter()
            .map(|name| Step::RemoveSeveredPin { name: name.clone() }),
    );
    let (closed, open) = plan_host_ports(wanted, datapath);
    if datapath.stale {
        steps.extend(closed);
    } else {
        // Whatever else of the host's part fails.
        steps.splice(0..0, closed);
    }
    steps.extend(open);
    let (target, too_many) = routes::compile(wanted, observed);
    plan.problems.extend(too_many);
    let missing = wanted.datapath.missing_uplinks.iter();
    let gone = missing.map(|name| Problem::UplinkGone { name: name.clone() });
    plan.problems.extend(gone);
    steps.extend(plan_new_uplinks(wanted, observed, datapath));
    steps.extend(routes::plan_routes(&datapath.routes, &target));
    steps.extend(plan_old_uplinks(wanted, observed, datapath));
    if !datapath.serving {
        steps.push(Step::ServeGuests);
    }
    if !datapath.leading {
        steps.push(Step::LeadSockets);
    }
    plan.push(Owner::Host, steps);
}

/// Whether all of them are, and nothing else that was reserved for guests.
fn are_reserved(range: PortRange, reserved: &ReservedPorts) -> bool {
    ports::covers(&reserved.all, range.first, range.last)
        && ports::without(&reserved.own, &[range]).is_empty()
}

/// What is closed goes first: at no instant may more be reached than before or after.
fn plan_host_ports(wanted: &Wanted, datapath: &ObservedDatapath) -> (Vec<Step>, Vec<Step>) {
    let (wanted, there) = (&wanted.datapath.host_ports, &datapath.host_ports);
    let closed = there.difference(wanted);
    let closed = closed.map(|port| Step::CloseHostPort { port: *port });
    let open = wanted.difference(there);
    let open = open.map(|port| Step::OpenHostPort { port: *port });
    (closed.collect(), open.collect())
}

fn plan_new_uplinks(
    wanted: &Wanted,
    observed: &Observed,
    datapath: &ObservedDatapath,
) -> Vec<Step> {
    let wanted = wanted.datapath.uplinks.iter();
    let bare = wanted.filter(|ifindex| !datapath.attached.contains(ifindex));
    let found = bare.filter_map(|ifindex| Some((*ifindex, observed.links.get(ifindex)?)));
    let steps = found.map(|(ifindex, link)| Step::AttachUplink {
        ifindex,
        name: link.name.clone(),
    });
    steps.collect()
}

fn plan_old_uplinks(
    wanted: &Wanted,
    observed: &Observed,
    datapath: &ObservedDatapath,
) -> Vec<Step> {
    let prefix = alias_prefix(wanted.store_id);
    let taps: BTreeSet<u32> = wanted
        .interfaces
        .values()
        .map(|interface| interface.tap.ifindex)
        .collect();
    let is_tap = |ifindex: &u32| {
        let link = observed.links.get(ifindex);
        taps.contains(ifindex) || link.is_some_and(|link| link.is_of(&prefix))
    };
    let attached = datapath.attached.iter();
    attached
        .filter(|ifindex| !is_tap(ifindex) && !wanted.datapath.uplinks.contains(ifindex))
        .map(|ifindex| Step::DetachUplink { ifindex: *ifindex })
        .collect()
}
