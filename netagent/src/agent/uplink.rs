//! Which interface leads to the world, and whether the pool stands in its way (I-10).

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

/// The interface index of the uplink.
///
/// # Errors
/// Where there is none, or it is not an Ethernet-type device.
pub fn choose(named: Option<&str>, observed: &Observed) -> Result<u32, UplinkError> {
    let (ifindex, link) = match named {
        Some(name) => observed
            .links
            .iter()
            .find(|(_, link)| link.name == name)
            .ok_or_else(|| UplinkError::Missing(name.to_owned()))?,
        None => default_link(observed).ok_or(UplinkError::NoDefaultRoute)?,
    };
    if link.ethernet {
        Ok(*ifindex)
    } else {
        Err(UplinkError::NotEthernet(link.name.clone()))
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

/// Checks the pools against the host's networks; the routes that overlap without harm to the uplink.
///
/// # Errors
/// Where a pool holds the uplink's network or gateway, or a resolver that the host asks.
pub fn check_pools(
    pools: &[IpNet],
    resolvers: &[IpAddr],
    uplink: u32,
    observed: &Observed,
) -> Result<Vec<KernelRoute>, UplinkError> {
    let Some(link) = observed.links.get(&uplink) else {
        return Ok(Vec::new());
    };
    let refuse = |pool: IpNet, what: String| {
        Err(UplinkError::PoolOverlap {
            pool,
            what,
            uplink: link.name.clone(),
        })
    };
    for pool in pools {
        if let Some(resolver) = resolvers.iter().find(|one| pool.contains(*one)) {
            let (pool, resolver) = (*pool, *resolver);
            return Err(UplinkError::PoolResolver { pool, resolver });
        }
        let mut networks = link.addresses.iter().map(IpNet::trunc);
        if let Some(network) = networks.find(|network| overlap(pool, network)) {
            return refuse(*pool, format!("network {network}"));
        }
        let routes = observed
            .routes
            .iter()
            .filter(|route| route.ifindex == uplink);
        let mut gateways = routes.filter_map(|route| route.gateway);
        if let Some(gateway) = gateways.find(|gateway: &IpAddr| pool.contains(gateway)) {
            return refuse(*pool, format!("gateway {gateway}"));
        }
    }
    let harmless = observed.routes.iter().filter(|route| {
        route.kind == KernelRouteKind::Unicast
            && route.destination.prefix_len() > 0
            && pools.iter().any(|pool| overlap(pool, &route.destination))
    });
    Ok(harmless.cloned().collect())
}

fn overlap(left: &IpNet, right: &IpNet) -> bool {
    left.contains(right) || right.contains(left)
}

/// Whether the uplink has IPv6: an address of it, and an MTU that carries it. A host may have it on loopback
/// alone, and off on every link that is made.
#[must_use]
pub fn has_v6(uplink: u32, observed: &Observed) -> bool {
    observed.links.get(&uplink).is_some_and(|link| {
        let mut addresses = link.addresses.iter();
        link.mtu >= MTU_MIN_V6 && addresses.any(|address| address.addr().is_ipv6())
    })
}

/// Whether a default route of IPv6 leads through the uplink. Without one a guest is told none: it would prefer IPv6,
/// and wait for what never comes (M-8).
#[must_use]
pub fn has_default_v6(uplink: u32, observed: &Observed) -> bool {
    observed.routes.iter().any(|route| {
        route.kind == KernelRouteKind::Unicast
            && route.ifindex == uplink
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
        assert_eq!(choose(None, &observed), Err(UplinkError::NoDefaultRoute));
        observed.routes = vec![
            route("0.0.0.0/0", 3, 200),
            route("0.0.0.0/0", 2, 100),
            route("::/0", 3, 0),
        ];
        assert_eq!(choose(None, &observed), Ok(2));
    }

    #[test]
    fn a_device_that_is_not_ethernet_is_refused_by_name() {
        let mut observed = host();
        observed.routes = vec![route("0.0.0.0/0", 3, 0)];
        assert_eq!(
            choose(None, &observed),
            Err(UplinkError::NotEthernet("wg0".into()))
        );
        assert_eq!(
            choose(Some("lo"), &observed),
            Err(UplinkError::NotEthernet("lo".into()))
        );
        assert_eq!(
            choose(Some("eth9"), &observed),
            Err(UplinkError::Missing("eth9".into()))
        );
        assert_eq!(choose(Some("eth0"), &observed), Ok(2));
    }

    #[test]
    fn a_pool_over_the_uplinks_network_or_gateway_is_refused() {
        let mut observed = host();
        let pool = |text: &str| vec![text.parse::<IpNet>().unwrap()];
        for bad in ["192.0.2.0/28", "192.0.0.0/16"] {
            let error = check_pools(&pool(bad), &[], 2, &observed)
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
        let error = check_pools(&pool("198.51.0.0/16"), &[], 2, &observed)
            .unwrap_err()
            .to_string();
        assert!(error.contains("gateway 198.51.100.1"), "{error}");
        let resolver = "10.53.0.53".parse().unwrap();
        let error = check_pools(&pool("10.53.0.0/16"), &[resolver], 2, &observed)
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
            assert_eq!(has_v6(2, &observed), expected, "{mtu} {address}");
        };
        check(1_500, "192.0.2.2/24", false);
        check(1_500, "2001:db8::2/64", true);
        check(1_280, "fe80::2/64", true);
        check(1_279, "2001:db8::2/64", false);
        assert!(!has_v6(9, &observed));
    }

    #[test]
    fn only_a_default_route_through_the_uplink_is_one_for_guests() {
        let mut observed = host();
        let mut check = |routes: Vec<KernelRoute>, expected| {
            observed.routes = routes;
            assert_eq!(
                has_default_v6(2, &observed),
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
            check_pools(&pools, &[], 2, &observed),
            Ok(vec![route("172.16.9.0/24", 3, 0)])
        );
    }
}
