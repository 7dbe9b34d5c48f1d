//! From one route map to another, without a moment in which more is open than before or after.

use ipnet::IpNet;
use netagent_common::limit::ROUTES_MAX;
use netagent_common::policy::RouteKind;

use crate::plan::Step;
use crate::plan::routes::RouteMap;

/// The changes from one route map to another. At every point of them, what leads out led out before or
/// will lead out after, and the map holds what is in it.
#[must_use]
pub fn plan_routes(before: &RouteMap, after: &RouteMap) -> Vec<Step> {
    let mut steps = if fits(before, after) {
        add_first(before, after)
    } else {
        close_first(before, after)
    };
    if !steps.is_empty() {
        steps.push(Step::RaiseRouteGeneration);
    }
    steps
}

/// Whether both maps fit in one, and a place is left.
fn fits(before: &RouteMap, after: &RouteMap) -> bool {
    [true, false].into_iter().all(|v4| {
        let of_family = |prefix: &&IpNet| prefix.addr().is_ipv4() == v4;
        let new = |prefix: &&IpNet| !before.contains_key(*prefix);
        let old = before.keys().filter(of_family).count();
        old + after.keys().filter(of_family).filter(new).count() < ROUTES_MAX as usize
    })
}

/// New denials, then routes that go, then routes that come, then denials that go.
fn add_first(before: &RouteMap, after: &RouteMap) -> Vec<Step> {
    let steps = set(before, after, false)
        .chain(remove(before, after, true))
        .chain(set(before, after, true))
        .chain(remove(before, after, false));
    steps.collect()
}

/// Everything that leads out goes first, so that denials may be changed in any order: guests reach nothing until
/// the end of the change.
fn close_first(before: &RouteMap, after: &RouteMap) -> Vec<Step> {
    let closed: RouteMap = before
        .iter()
        .filter(|(_, target)| target.kind != RouteKind::Uplink)
        .map(|(prefix, target)| (*prefix, *target))
        .collect();
    let nothing = RouteMap::new();
    let mut steps: Vec<Step> = remove(before, &nothing, true).collect();
    steps.extend(remove(&closed, after, false));
    steps.extend(set(&closed, after, false));
    steps.extend(set(&closed, after, true));
    steps
}

/// What comes or becomes another; of that, what leads out or what does not.
fn set<'a>(
    before: &'a RouteMap,
    after: &'a RouteMap,
    leads_out: bool,
) -> impl Iterator<Item = Step> + 'a {
    let changed = after.iter().filter(move |(prefix, target)| {
        before.get(prefix) != Some(target) && (target.kind == RouteKind::Uplink) == leads_out
    });
    changed.map(|(prefix, target)| Step::SetRoute {
        destination: *prefix,
        target: *target,
    })
}

/// What goes; of that, what leads out or what does not.
fn remove<'a>(
    before: &'a RouteMap,
    after: &'a RouteMap,
    leads_out: bool,
) -> impl Iterator<Item = Step> + 'a {
    let gone = before.iter().filter(move |(prefix, target)| {
        !after.contains_key(prefix) && (target.kind == RouteKind::Uplink) == leads_out
    });
    gone.map(|(prefix, _)| Step::RemoveRoute {
        destination: *prefix,
    })
}
