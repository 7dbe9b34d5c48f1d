//! Where guests may go: the kernel's routes, pools and forbidden prefixes, compiled into one map.
//!
//! A prefix that leads through an uplink is never more specific than one that is forbidden, so no address
//! in a forbidden prefix resolves to an uplink, whatever routes the host has. Prefixes that the configuration opens are the
//! exception.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netagent_common::policy::RouteKind;

use crate::plan::{
    KernelRoute, KernelRouteKind, Observed, ObservedLink, Problem, RouteTarget, Wanted,
    alias_prefix,
};

mod changes;
mod fit;
mod open;

pub use changes::plan_routes;

/// The route map of a host.
pub type RouteMap = BTreeMap<IpNet, RouteTarget>;

/// Prefixes that are never reached (P-5).
const ALWAYS_DENIED: [&str; 12] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "100.100.100.200/32",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
    "fd00:ec2::254/128",
    "::ffff:0:0/96",
];

/// The prefixes of P-5 that hold on every host.
#[must_use]
pub fn always_denied() -> Vec<IpNet> {
    ALWAYS_DENIED
        .iter()
        .filter_map(|prefix| prefix.parse().ok())
        .collect()
}

/// Compiles the route map; a problem where it does not hold all routes.
#[must_use]
pub fn compile(wanted: &Wanted, observed: &Observed) -> (RouteMap, Vec<Problem>) {
    let own = alias_prefix(wanted.store_id);
    let routes: Vec<&KernelRoute> = observed
        .routes
        .iter()
        .filter(|route| {
            !observed
                .links
                .get(&route.ifindex)
                .is_some_and(|link| link.is_of(&own))
        })
        .collect();
    let mut map = forbidden(wanted, &routes);
    let closed: BTreeSet<IpNet> = map.keys().copied().collect();
    for route in by_preference(&routes, wanted) {
        let destination = route.destination.trunc();
        if !open::is_closed(destination, &closed, &wanted.datapath.open) {
            map.entry(destination)
                .or_insert_with(|| target(route, wanted, observed));
        }
    }
    open::open_up(&mut map, &closed, &routes, (wanted, observed));
    let problems = fit::fit(&mut map);
    (map, problems)
}

/// Pools, forbidden prefixes, and what the kernel's local table holds: that table is asked first, so
/// nothing inside its prefixes leads anywhere else.
fn forbidden(wanted: &Wanted, routes: &[&KernelRoute]) -> RouteMap {
    let mut map = RouteMap::new();
    for denied in &wanted.datapath.always_denied {
        map.insert(denied.trunc(), deny(RouteKind::AlwaysDenied));
    }
    for pool in &wanted.datapath.pools {
        map.insert(pool.trunc(), deny(RouteKind::Instance));
    }
    let outer: BTreeSet<IpNet> = map.keys().copied().collect();
    for route in routes {
        let kind = match route.kind {
            KernelRouteKind::Local => RouteKind::Host,
            KernelRouteKind::Broadcast => RouteKind::AlwaysDenied,
            KernelRouteKind::Unicast | KernelRouteKind::Refused => continue,
        };
        let destination = route.destination.trunc();
        if !open::is_closed(destination, &outer, &wanted.datapath.open) {
            map.entry(destination).or_insert(deny(kind));
        }
    }
    map
}

/// Routes of the main table, the one that counts first: of equal prefixes the lowest metric, and among
/// equal metrics one that denies.
fn by_preference<'a>(routes: &[&'a KernelRoute], wanted: &Wanted) -> Vec<&'a KernelRoute> {
    let mut main: Vec<&KernelRoute> = routes
        .iter()
        .filter(|route| match route.kind {
            KernelRouteKind::Unicast | KernelRouteKind::Refused => true,
            KernelRouteKind::Local | KernelRouteKind::Broadcast => false,
        })
        .copied()
        .collect();
    main.sort_by_key(|route| {
        let leads_out = wanted.datapath.uplinks.contains(&route.ifindex);
        (route.destination.trunc(), route.metric, leads_out, *route)
    });
    main
}

/// What holds where no prefix does.
pub const UNREACHABLE: RouteTarget = deny(RouteKind::Unreachable);

/// The entry that decides about an address: that of the longest prefix, as in the programs.
#[must_use]
pub fn find(map: &RouteMap, address: IpAddr) -> Option<(IpNet, RouteTarget)> {
    let longest = IpNet::from(address).max_prefix_len();
    (0..=longest).rev().find_map(|length| {
        let prefix = IpNet::new(address, length).ok()?.trunc();
        Some((prefix, *map.get(&prefix)?))
    })
}

const fn deny(kind: RouteKind) -> RouteTarget {
    RouteTarget {
        kind,
        ifindex: 0,
        mtu: 0,
        next_hop: None,
        source: None,
    }
}

fn target(route: &KernelRoute, wanted: &Wanted, observed: &Observed) -> RouteTarget {
    if route.kind == KernelRouteKind::Refused {
        return deny(RouteKind::Unreachable);
    }
    if !wanted.datapath.uplinks.contains(&route.ifindex) {
        return deny(RouteKind::NotUplink);
    }
    observed
        .links
        .get(&route.ifindex)
        .and_then(|link| through(route, link))
        .unwrap_or(deny(RouteKind::Unreachable))
}

/// The way through an uplink, where it has an address to stand for guests.
fn through(route: &KernelRoute, link: &ObservedLink) -> Option<RouteTarget> {
    let destination = route.destination.addr();
    // An IPv4 route by an IPv6 router has no place in the map of its family.
    if route
        .gateway
        .is_some_and(|gateway| gateway.is_ipv4() != destination.is_ipv4())
    {
        return None;
    }
    let source = route
        .source
        .filter(|source| is_global(*source) && source.is_ipv4() == destination.is_ipv4())
        .or_else(|| own_address(route.gateway.unwrap_or(destination), link))?;
    Some(RouteTarget {
        kind: RouteKind::Uplink,
        ifindex: route.ifindex,
        mtu: route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
        next_hop: route.gateway,
        source: Some(source),
    })
}

/// The uplink's first address in the network of `peer`, else its first global one, as the kernel chooses.
fn own_address(peer: IpAddr, link: &ObservedLink) -> Option<IpAddr> {
    let family = || {
        let global = link
            .sources
            .iter()
            .filter(|network| is_global(network.addr()));
        global.filter(|network| network.addr().is_ipv4() == peer.is_ipv4())
    };
    let near = family().find(|network| network.contains(&peer));
    // Unique local addresses lead nowhere outside: they stand back behind the others.
    near.or_else(|| family().min_by_key(|network| is_unique_local(network.addr())))
        .map(IpNet::addr)
}

fn is_unique_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unique_local(),
    }
}

/// Whether an address may stand for guests: neither link-local, loopback, multicast nor none.
fn is_global(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(local || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

#[cfg(test)]
pub(crate) const fn always_denied_target() -> RouteTarget {
    deny(RouteKind::AlwaysDenied)
}

#[cfg(test)]
mod tests;
