//! Which interfaces lead to the world, and whether the pool stands in their way (I-10).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::plan::{KernelRoute, KernelRouteKind, Observed, ObservedLink};

/// The lowest MTU that IPv6 runs on, bytes (RFC 8200 section 5).
pub const MTU_MIN_V6: u32 = 1_280;

/// Why there is no usable uplink.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UplinkError {
    /// Nothing to go by.
    #[error("no uplink: the host has no default route: name an interface with --uplink")]
    NoDefaultRoute,
    /// The named one is not there.
    #[error("uplink '{0}' does not exist: name another with --uplink")]
    Missing(String),
    /// I-10's words: others than Ethernet are refused by name.
    #[error("uplink '{0}' is not an Ethernet-type device: name another with --uplink")]
    NotEthernet(String),
    /// The pool holds a resolver of the host.
    #[error(
        "pool {pool} holds the upstream resolver {resolver}: choose another in [pool], or another resolver in [dns]"
    )]
    PoolResolver {
        /// The pool.
        pool: IpNet,
        /// The resolver.
        resolver: IpAddr,
    },
    /// The pool holds the uplink's network or gateway.
    #[error("pool {pool} overlaps {what} of uplink '{uplink}': choose another in [pool]")]
    PoolOverlap {
        /// The pool.
        pool: IpNet,
        /// Network or gateway.
        what: String,
        /// Name of the uplink.
        uplink: String,
    },
}

/// The interfaces that lead to the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uplinks {
    /// Those that are there: names by interface index.
    pub found: BTreeMap<u32, String>,
    /// Names of those that should be there: nothing leads through them until they are.
    pub missing: BTreeSet<String>,
}

impl Uplinks {
    /// Their interface indices.
    #[must_use]
    pub fn indices(&self) -> BTreeSet<u32> {
        self.found.keys().copied().collect()
    }

    /// The same ones as they are now, where an observation names no others.
    #[must_use]
    pub fn kept(&self, observed: &Observed) -> Self {
        let mut kept = self.clone();
        kept.found
            .retain(|ifindex, _| observed.links.contains_key(ifindex));
        let gone = self.found.iter();
        let gone = gone.filter(|(ifindex, _)| !kept.found.contains_key(*ifindex));
        kept.missing.extend(gone.map(|(_, name)| name.clone()));
        kept
    }

    /// The lowest MTU of them, bytes: what fits it fits every way out.
    #[must_use]
    pub fn mtu(&self, observed: &Observed) -> Option<u32> {
        let links = self.found.keys();
        let links = links.filter_map(|ifindex| observed.links.get(ifindex));
        links.map(|link| link.mtu).min()
    }
}

/// The uplinks: those that are named, or else the one of the default route. Of several one may be missing, such as
/// a spare whose driver comes later.
///
/// # Errors
/// Where there is none, or one is not an Ethernet-type device.
pub fn choose(named: &[String], observed: &Observed) -> Result<Uplinks, UplinkError> {
    let mut uplinks = Uplinks::default();
    let links = || observed.links.iter();
    let mut chosen: Vec<(&u32, &ObservedLink)> = Vec::new();
    for name in named {
        match links().find(|(_, link)| link.name == *name) {
            Some(found) => chosen.push(found),
            None => {
                uplinks.missing.insert(name.clone());
            }
        }
    }
    if named.is_empty() {
        chosen.push(default_link(observed).ok_or(UplinkError::NoDefaultRoute)?);
    }
    for (ifindex, link) in chosen {
        if !link.ethernet {
            return Err(UplinkError::NotEthernet(link.name.clone()));
        }
        uplinks.found.insert(*ifindex, link.name.clone());
    }
    match uplinks.missing.first() {
        Some(name) if uplinks.found.is_empty() => Err(UplinkError::Missing(name.clone())),
        Some(_) | None => Ok(uplinks),
    }
}

/// The link of the default route with the lowest metric, IPv4 before IPv6.
fn default_link(observed: &Observed) -> Option<(&u32, &ObservedLink)> {
    let route = observed
        .routes
        .iter()
        .filter(|route| route.destination.prefix_len() == 0)
        .filter(|route| route.kind == KernelRouteKind::Unicast)
        .filter(|route| observed.links.contains_key(&route.ifindex))
        .min_by_key(|route| {
            (
                route.destination.addr().is_ipv6(),
                route.metric,
                route.ifindex,
            )
        })?;
    observed.links.get_key_value(&route.ifindex)
}

/// Checks the pools against the host's networks; the routes that overlap without harm to an uplink.
///
/// # Errors
/// Where a pool holds an uplink's network or gateway, or a resolver that the host asks.
pub fn check_pools(
    pools: &[IpNet],
    resolvers: &[IpAddr],
    uplinks: &Uplinks,
    observed: &Observed,
) -> Result<Vec<KernelRoute>, UplinkError> {
    for pool in pools {
        if let Some(resolver) = resolvers.iter().find(|one| pool.contains(*one)) {
            let (pool, resolver) = (*pool, *resolver);
            return Err(UplinkError::PoolResolver { pool, resolver });
        }
        for (ifindex, name) in &uplinks.found {
            if let Some(what) = in_the_way(pool, *ifindex, observed) {
                let (pool, uplink) = (*pool, name.clone());
                return Err(UplinkError::PoolOverlap { pool, what, uplink });
            }
        }
    }
    let harmless = observed.routes.iter().filter(|route| {
        route.kind == KernelRouteKind::Unicast
            && route.destination.prefix_len() > 0
            && pools.iter().any(|pool| overlap(pool, &route.destination))
    });
    Ok(harmless.cloned().collect())
}

/// What of an uplink a pool overlaps.
fn in_the_way(pool: &IpNet, uplink: u32, observed: &Observed) -> Option<String> {
    let link = observed.links.get(&uplink)?;
    let mut networks = link.addresses.iter().map(IpNet::trunc);
    if let Some(network) = networks.find(|network| overlap(pool, network)) {
        return Some(format!("network {network}"));
    }
    let routes = observed.routes.iter();
    let routes = routes.filter(|route| route.ifindex == uplink);
    let mut gateways = routes.filter_map(|route| route.gateway);
    let gateway = gateways.find(|gateway: &IpAddr| pool.contains(gateway))?;
    Some(format!("gateway {gateway}"))
}

fn overlap(left: &IpNet, right: &IpNet) -> bool {
    left.contains(right) || right.contains(left)
}

/// Whether an uplink has IPv6: an address of it, and an MTU that carries it. A host may have it on loopback
/// alone, and off on every link that is made.
#[must_use]
pub fn has_v6(uplinks: &Uplinks, observed: &Observed) -> bool {
    let links = uplinks.found.keys();
    let mut links = links.filter_map(|ifindex| observed.links.get(ifindex));
    links.any(|link| {
        let mut addresses = link.addresses.iter();
        link.mtu >= MTU_MIN_V6 && addresses.any(|address| address.addr().is_ipv6())
    })
}

/// Whether a default route of IPv6 leads through an uplink. Without one a guest is told none: it would prefer IPv6,
/// and wait for what never comes (M-8).
#[must_use]
pub fn has_default_v6(uplinks: &Uplinks, observed: &Observed) -> bool {
    observed.routes.iter().any(|route| {
        route.kind == KernelRouteKind::Unicast
            && uplinks.found.contains_key(&route.ifindex)
            && route.destination.addr().is_ipv6()
            && route.destination.prefix_len() == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Observed {
        let mut observed = Observed::default();
        let link = |name: &str, ethernet, address: &str| ObservedLink {
            name: name.into(),
            ethernet,
            addresses: [address.parse().unwrap()].into(),
            ..ObservedLink::default()
        };
        observed.links.insert(1, link("lo", false, "127.0.0.1/8"));
        observed.links.insert(2, link("eth0", true, "192.0.2.2/24"));
        observed.links.insert(3, link("wg0", false, "10.9.0.1/24"));
        observed
    }

    /// These, by index and name.
    fn uplinks(found: &[(u32, &str)]) -> Uplinks {
        let found = found.iter();
        Uplinks {
            found: found
                .map(|(ifindex, name)| (*ifindex, (*name).to_owned()))
                .collect(),
            ..Uplinks::default()
        }
    }

    fn eth0() -> Uplinks {
        uplinks(&[(2, "eth0")])
    }

    fn named(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn route(destination: &str, ifindex: u32, metric: u32) -> KernelRoute {
        KernelRoute {
            destination: destination.parse().unwrap(),
            kind: KernelRouteKind::Unicast,
            ifindex,
            gateway: None,
            source: None,
            metric,
            mtu: None,
        }
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_names_the_uplink() {
        let mut observed = host();
        assert_eq!(choose(&[], &observed), Err(UplinkError::NoDefaultRoute));
        observed.routes = vec![
            route("0.0.0.0/0", 3, 200),
            route("0.0.0.0/0", 2, 100),
            route("::/0", 3, 0),
        ];
        assert_eq!(choose(&[], &observed), Ok(eth0()));
    }

    #[test]
    fn a_device_that_is_not_ethernet_is_refused_by_name() {
        let mut observed = host();
        observed.routes = vec![route("0.0.0.0/0", 3, 0)];
        let check = |names: &[&str], expected| {
            assert_eq!(choose(&named(names), &observed), expected, "{names:?}");
        };
        check(&[], Err(UplinkError::NotEthernet("wg0".into())));
        check(&["lo"], Err(UplinkError::NotEthernet("lo".into())));
        check(&["eth0", "lo"], Err(UplinkError::NotEthernet("lo".into())));
        check(&["eth9"], Err(UplinkError::Missing("eth9".into())));
        check(&["eth0"], Ok(eth0()));
    }

    #[test]
    fn of_several_uplinks_one_may_be_missing_and_the_lowest_mtu_is_theirs() {
        let mut observed = host();
        for (ifindex, mtu) in [(2, 1_500), (4, 1_400)] {
            let link = observed.links.entry(ifindex).or_default();
            (link.mtu, link.ethernet) = (mtu, true);
        }
        observed.links.get_mut(&4).unwrap().name = "eth1".into();
        let both = choose(&named(&["eth1", "eth0", "eth9"]), &observed).unwrap();
        assert_eq!(both.found, uplinks(&[(2, "eth0"), (4, "eth1")]).found);
        assert_eq!(both.missing, BTreeSet::from(["eth9".to_owned()]));
        assert_eq!(both.mtu(&observed), Some(1_400));
        observed.links.remove(&4);
        let kept = both.kept(&observed);
        assert_eq!(kept.found, eth0().found);
        let missing = BTreeSet::from(["eth1".to_owned(), "eth9".to_owned()]);
        assert_eq!(kept.missing, missing);
        assert_eq!(kept.mtu(&observed), Some(1_500));
        assert_eq!(Uplinks::default().mtu(&observed), None);
    }

    #[test]
    fn a_pool_over_the_uplinks_network_or_gateway_is_refused() {
        let mut observed = host();
        let pool = |text: &str| vec![text.parse::<IpNet>().unwrap()];
        for bad in ["192.0.2.0/28", "192.0.0.0/16"] {
            let error = check_pools(&pool(bad), &[], &eth0(), &observed)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("overlaps network 192.0.2.0/24 of uplink 'eth0'"),
                "{error}"
            );
        }
        let gateway = Some("198.51.100.1".parse().unwrap());
        observed.routes = vec![KernelRoute {
            gateway,
            ..route("0.0.0.0/0", 2, 0)
        }];
        let error = check_pools(&pool("198.51.0.0/16"), &[], &eth0(), &observed)
            .unwrap_err()
            .to_string();
        assert!(error.contains("gateway 198.51.100.1"), "{error}");
        let resolver = "10.53.0.53".parse().unwrap();
        let error = check_pools(&pool("10.53.0.0/16"), &[resolver], &eth0(), &observed)
            .unwrap_err()
            .to_string();
        assert!(error.contains("upstream resolver 10.53.0.53"), "{error}");
    }

    #[test]
    fn only_the_uplinks_own_ipv6_counts() {
        let mut observed = host();
        observed.links.insert(
            1,
            ObservedLink {
                addresses: ["::1/128".parse().unwrap()].into(),
                mtu: 65_536,
                ..ObservedLink::default()
            },
        );
        let mut check = |mtu, address: &str, expected| {
            let uplink = observed.links.get_mut(&2).unwrap();
            uplink.mtu = mtu;
            uplink.addresses = [address.parse().unwrap()].into();
            assert_eq!(has_v6(&eth0(), &observed), expected, "{mtu} {address}");
        };
        check(1_500, "192.0.2.2/24", false);
        check(1_500, "2001:db8::2/64", true);
        check(1_280, "fe80::2/64", true);
        check(1_279, "2001:db8::2/64", false);
        assert!(!has_v6(&uplinks(&[(9, "eth9")]), &observed));
    }

    #[test]
    fn only_a_default_route_through_the_uplink_is_one_for_guests() {
        let mut observed = host();
        let mut check = |routes: Vec<KernelRoute>, expected| {
            observed.routes = routes;
            assert_eq!(
                has_default_v6(&eth0(), &observed),
                expected,
                "{:?}",
                observed.routes
            );
        };
        check(
            vec![route("0.0.0.0/0", 2, 0), route("2001:db8::/32", 2, 0)],
            false,
        );
        check(vec![route("::/0", 3, 0)], false);
        check(vec![route("::/0", 3, 0), route("::/0", 2, 9)], true);
        let kind = KernelRouteKind::Refused;
        check(
            vec![KernelRoute {
                kind,
                ..route("::/0", 2, 0)
            }],
            false,
        );
    }

    #[test]
    fn another_route_in_the_pool_is_only_named() {
        let mut observed = host();
        observed.routes = vec![route("0.0.0.0/0", 2, 0), route("172.16.9.0/24", 3, 0)];
        let pools = ["172.16.0.0/16".parse().unwrap()];
        assert_eq!(
            check_pools(&pools, &[], &eth0(), &observed),
            Ok(vec![route("172.16.9.0/24", 3, 0)])
        );
    }
}
