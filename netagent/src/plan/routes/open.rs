//! Prefixes that are opened inside forbidden ones (P-5): there the kernel's routes count.

use std::collections::BTreeSet;

use ipnet::IpNet;
use netagent_common::policy::RouteKind;

use crate::plan::routes::{RouteMap, by_preference, deny, target};
use crate::plan::{KernelRoute, KernelRouteKind, Observed, RouteTarget, Wanted};

/// Whether nothing in `prefix` leads anywhere: of the closed and the opened prefixes that hold it, the longest is closed.
/// One that is both is closed: something of the host's stands just there.
pub(super) fn is_closed(prefix: IpNet, closed: &BTreeSet<IpNet>, open: &BTreeSet<IpNet>) -> bool {
    std::iter::successors(Some(prefix), IpNet::supernet)
        .find(|prefix| closed.contains(prefix) || open.contains(prefix))
        .is_some_and(|prefix| closed.contains(&prefix))
}

/// Gives every opened prefix that would be closed by a wider one the way that the kernel has for it.
pub(super) fn open_up(
    map: &mut RouteMap,
    closed: &BTreeSet<IpNet>,
    routes: &[&KernelRoute],
    (wanted, observed): (&Wanted, &Observed),
) {
    let open = &wanted.datapath.open;
    for prefix in open {
        let wider = prefix.supernet();
        if wider.is_some_and(|wider| is_closed(wider, closed, open)) {
            map.entry(*prefix)
                .or_insert_with(|| way(*prefix, routes, (wanted, observed)));
        }
    }
}

fn way(
    prefix: IpNet,
    routes: &[&KernelRoute],
    (wanted, observed): (&Wanted, &Observed),
) -> RouteTarget {
    let holds = |route: &&&KernelRoute| route.destination.contains(&prefix);
    // The kernel asks its local table first.
    for route in routes.iter().filter(holds) {
        match route.kind {
            KernelRouteKind::Local => return deny(RouteKind::Host),
            KernelRouteKind::Broadcast => return deny(RouteKind::AlwaysDenied),
            KernelRouteKind::Unicast | KernelRouteKind::Refused => {}
        }
    }
    let main = by_preference(routes, wanted);
    // Of equal lengths the first one counts.
    let longest = main
        .iter()
        .rev()
        .filter(holds)
        .max_by_key(|route| route.destination.prefix_len());
    longest.map_or(deny(RouteKind::Unreachable), |route| {
        target(route, wanted, observed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{UPLINK, host, route};
    use crate::plan::routes::{always_denied, compile, tests::wanted};

    /// Not an uplink.
    const OTHER: u32 = UPLINK + 1;

    /// What the map says of an address, with these prefixes open.
    fn said(open: &[&str], routes: &[KernelRoute], address: &str) -> RouteTarget {
        let mut wanted = wanted();
        wanted.datapath.open = open.iter().map(|text| text.parse().unwrap()).collect();
        let is_open = |prefix: &IpNet| wanted.datapath.open.contains(prefix);
        wanted.datapath.always_denied = always_denied();
        wanted.datapath.always_denied.retain(|one| !is_open(one));
        let mut observed = host().state().observed.clone();
        observed.routes.extend(routes.to_vec());
        let (map, problems) = compile(&wanted, &observed);
        assert_eq!(problems, []);
        let address: std::net::IpAddr = address.parse().unwrap();
        let entries = map.iter().filter(|(prefix, _)| prefix.contains(&address));
        *entries
            .max_by_key(|(prefix, _)| prefix.prefix_len())
            .unwrap()
            .1
    }

    fn check(open: &[&str], routes: &[KernelRoute], address: &str, expected: RouteKind) {
        assert_eq!(
            said(open, routes, address).kind,
            expected,
            "{open:?} {address}"
        );
    }

    fn unicast(destination: &str, ifindex: u32) -> KernelRoute {
        route(destination, KernelRouteKind::Unicast, ifindex, None)
    }

    const METADATA: &str = "169.254.169.254/32";

    #[test]
    fn p5_an_opened_prefix_takes_the_way_that_the_kernel_has_and_nothing_beside_it_does() {
        check(&[], &[], "169.254.169.254", RouteKind::AlwaysDenied);
        check(&[METADATA], &[], "169.254.169.254", RouteKind::Uplink);
        check(&[METADATA], &[], "169.254.169.253", RouteKind::AlwaysDenied);
        check(&[METADATA], &[], "169.254.169.255", RouteKind::AlwaysDenied);
        check(&["169.254.0.0/16"], &[], "169.254.7.7", RouteKind::Uplink);
        check(
            &["169.254.0.0/16", METADATA],
            &[],
            "169.254.169.254",
            RouteKind::Uplink,
        );
        check(
            &["100.100.100.200/32"],
            &[],
            "100.100.100.200",
            RouteKind::Uplink,
        );
        check(
            &["169.254.168.0/21"],
            &[],
            "169.254.169.1",
            RouteKind::Uplink,
        );
        check(
            &["169.254.168.0/21"],
            &[],
            "169.254.160.1",
            RouteKind::AlwaysDenied,
        );
    }

    #[test]
    fn routes_in_and_around_an_opened_prefix_count_as_they_do_for_the_kernel() {
        let other = [unicast("169.254.0.0/16", OTHER)];
        check(&[METADATA], &other, "169.254.169.254", RouteKind::NotUplink);
        let both = [
            unicast("169.254.0.0/16", OTHER),
            unicast("169.254.169.0/24", UPLINK),
        ];
        check(&[METADATA], &both, "169.254.169.254", RouteKind::Uplink);
        let inner = [unicast("169.254.169.253/32", OTHER)];
        let half = ["169.254.128.0/17"];
        check(&half, &inner, "169.254.169.253", RouteKind::NotUplink);
        check(&half, &inner, "169.254.169.254", RouteKind::Uplink);
        let refused = [route("169.254.0.0/16", KernelRouteKind::Refused, 0, None)];
        check(
            &[METADATA],
            &refused,
            "169.254.169.254",
            RouteKind::Unreachable,
        );
    }

    #[test]
    fn an_address_of_the_host_stays_closed_in_an_opened_prefix() {
        let local = |prefix| [route(prefix, KernelRouteKind::Local, OTHER, None)];
        check(
            &[METADATA],
            &local(METADATA),
            "169.254.169.254",
            RouteKind::Host,
        );
        let wider = local("169.254.169.0/24");
        check(&[METADATA], &wider, "169.254.169.254", RouteKind::Host);
        check(
            &["169.254.0.0/16"],
            &wider,
            "169.254.169.254",
            RouteKind::Host,
        );
        let inner = local("169.254.169.1/32");
        check(
            &["169.254.169.0/24"],
            &inner,
            "169.254.169.1",
            RouteKind::Host,
        );
        check(
            &["169.254.169.0/24"],
            &inner,
            "169.254.169.2",
            RouteKind::Uplink,
        );
    }
}
