//! Whether a user's own network may be used on this host (I-8).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::plan::{KernelRouteKind, Observed, ObservedLink};

/// Whether `network` contains no uplink network, no gateway, no address of the host and no upstream resolver. What
/// stands on the agent's own links, told by `is_own`, is not the host's.
pub(crate) fn available(
    network: IpNet,
    observed: &Observed,
    uplinks: &BTreeSet<u32>,
    is_own: &dyn Fn(&ObservedLink) -> bool,
    resolvers: &[IpAddr],
) -> bool {
    let network = network.trunc();
    let foreign = || observed.links.iter().filter(|(_, link)| !is_own(link));
    let holds_address = foreign()
        .flat_map(|(_, link)| &link.addresses)
        .any(|address| network.contains(&address.addr()));
    let uplink_networks = foreign()
        .filter(|(ifindex, _)| uplinks.contains(ifindex))
        .flat_map(|(_, link)| &link.addresses);
    let meets_uplink = uplink_networks
        .map(IpNet::trunc)
        .any(|uplink| uplink.contains(&network) || network.contains(&uplink));
    let holds_gateway = observed.routes.iter().any(|route| {
        let gateway = route
            .gateway
            .is_some_and(|gateway| network.contains(&gateway));
        let local = route.kind == KernelRouteKind::Local
            && route.destination.prefix_len() == route.destination.max_prefix_len()
            && network.contains(&route.destination.addr())
            && !observed.links.get(&route.ifindex).is_some_and(is_own);
        gateway || local
    });
    let holds_resolver = resolvers.iter().any(|resolver| network.contains(resolver));
    !(holds_address || meets_uplink || holds_gateway || holds_resolver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{UPLINK, host};

    fn check(network: &str, expected: bool) {
        let observed = host().state().observed.clone();
        let own = |link: &ObservedLink| link.name == "own0";
        let resolvers = ["10.53.0.53".parse().unwrap()];
        let uplinks = BTreeSet::from([UPLINK]);
        let network: IpNet = network.parse().unwrap();
        let found = available(network, &observed, &uplinks, &own, &resolvers);
        assert_eq!(found, expected, "{network}");
    }

    #[test]
    fn a_network_with_anything_of_the_hosts_in_it_is_not_available() {
        check("192.168.0.1/30", true);
        check("192.0.2.9/24", false);
        check("192.0.2.129/25", false);
        check("192.0.0.1/8", false);
        check("172.17.0.9/16", false);
        check("172.17.0.9/32", true);
        check("10.53.0.1/24", false);
        check("10.54.0.1/24", true);
        check("fec0::2/64", true);
        check("2001:db8::9/64", false);
    }

    #[test]
    fn what_stands_on_the_agents_own_links_does_not_count() {
        let mut observed = host().state().observed.clone();
        let mut link = ObservedLink {
            name: "own0".into(),
            ..ObservedLink::default()
        };
        link.addresses.insert("10.7.0.254/32".parse().unwrap());
        observed.links.insert(70_000, link);
        let network = "10.7.0.9/24".parse().unwrap();
        let own = |link: &ObservedLink| link.name == "own0";
        assert!(available(network, &observed, &BTreeSet::new(), &own, &[]));
        assert!(!available(
            network,
            &observed,
            &BTreeSet::new(),
            &|_| false,
            &[]
        ));
    }
}
