//! The route map in its bounds: what does not fit is closed.

use ipnet::IpNet;
use netagent_common::limit::ROUTES_MAX;
use netagent_common::policy::RouteKind;

use crate::plan::Problem;
use crate::plan::routes::RouteMap;

/// Routes of one family that are used at most: the rest of the map is for what comes before the old goes. Before
/// 6.13 a full trie takes no new value for a prefix that it has, either.
pub(super) const WANTED_MAX: usize = ROUTES_MAX as usize - ROUTES_MAX as usize / 16;

/// Leaves the most specific uplink routes out where the maps are too small: their packets take the next
/// wider route, or none. Forbidden prefixes stay; where they alone are too many, no route leads out.
pub(super) fn fit(map: &mut RouteMap) -> Vec<Problem> {
    let max = WANTED_MAX;
    let mut problems = Vec::new();
    for v4 in [true, false] {
        let count = map
            .keys()
            .filter(|prefix| prefix.addr().is_ipv4() == v4)
            .count();
        if count <= max {
            continue;
        }
        problems.push(Problem::TooManyRoutes { count, max });
        let mut open: Vec<IpNet> = map
            .iter()
            .filter(|(prefix, target)| {
                prefix.addr().is_ipv4() == v4 && target.kind == RouteKind::Uplink
            })
            .map(|(prefix, _)| *prefix)
            .collect();
        open.sort_by_key(|prefix| std::cmp::Reverse((prefix.prefix_len(), *prefix)));
        // With forbidden prefixes left out nothing may lead out at all.
        let excess = count - max;
        let forbidden_fit = open.len() >= excess;
        for prefix in open
            .iter()
            .take(if forbidden_fit { excess } else { open.len() })
        {
            map.remove(prefix);
        }
        if !forbidden_fit {
            keep_widest(map, v4, max);
        }
    }
    problems
}

fn keep_widest(map: &mut RouteMap, v4: bool, max: usize) {
    let mut prefixes: Vec<IpNet> = map
        .keys()
        .filter(|prefix| prefix.addr().is_ipv4() == v4)
        .copied()
        .collect();
    prefixes.sort_by_key(|prefix| (prefix.prefix_len(), *prefix));
    for prefix in prefixes.iter().skip(max) {
        map.remove(prefix);
    }
}
