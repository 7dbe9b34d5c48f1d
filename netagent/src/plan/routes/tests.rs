use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use netagent_common::limit::ROUTES_MAX;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::config::PortRange;
use crate::host::fake::{UPLINK, host, route};
use crate::plan::{Step, WantedDatapath};

pub(super) fn wanted() -> Wanted {
    Wanted {
        store_id: Uuid::from_u128(7),
        datapath: WantedDatapath {
            uplinks: [UPLINK].into(),
            missing_uplinks: BTreeSet::new(),
            ports: PortRange::default(),
            pools: vec![
                "172.16.0.0/16".parse().unwrap(),
                "fd12:3456:789a::/48".parse().unwrap(),
            ],
            always_denied: always_denied(),
            open: BTreeSet::new(),
            host_ports: BTreeSet::new(),
        },
        interfaces: BTreeMap::new(),
        ports: BTreeMap::new(),
        policies: BTreeMap::new(),
        lent: BTreeMap::new(),
    }
}

fn observed(extra: Vec<KernelRoute>) -> Observed {
    let mut observed = host().state().observed.clone();
    observed.routes.extend(extra);
    observed
}

fn compiled(extra: Vec<KernelRoute>) -> RouteMap {
    let (map, problems) = compile(&wanted(), &observed(extra));
    assert_eq!(problems, []);
    map
}

/// What the map says of an address: the longest prefix wins.
fn look_up(map: &RouteMap, address: IpAddr) -> Option<&RouteTarget> {
    map.iter()
        .filter(|(prefix, _)| prefix.contains(&address))
        .max_by_key(|(prefix, _)| prefix.prefix_len())
        .map(|(_, target)| target)
}

fn check(map: &RouteMap, address: &str, expected: RouteKind) {
    let target = look_up(map, address.parse().unwrap()).expect(address);
    assert_eq!(target.kind, expected, "{address}");
}

fn unicast(destination: &str, ifindex: u32, gateway: Option<&str>) -> KernelRoute {
    route(destination, KernelRouteKind::Unicast, ifindex, gateway)
}

fn text(target: &RouteTarget) -> String {
    target.to_string()
}

#[test]
fn a_plain_host_leads_out_and_denies_the_rest() {
    let map = compiled(vec![]);
    for (address, kind) in [
        ("8.8.8.8", RouteKind::Uplink),
        ("192.0.2.7", RouteKind::Uplink),
        ("192.0.2.2", RouteKind::Host),
        ("192.0.2.255", RouteKind::AlwaysDenied),
        ("172.17.0.9", RouteKind::NotUplink),
        ("172.17.0.1", RouteKind::Host),
        ("172.16.0.1", RouteKind::Instance),
        ("127.0.0.1", RouteKind::AlwaysDenied),
        ("169.254.169.254", RouteKind::AlwaysDenied),
        ("100.100.100.200", RouteKind::AlwaysDenied),
        ("224.0.0.1", RouteKind::AlwaysDenied),
        ("255.255.255.255", RouteKind::AlwaysDenied),
        ("0.0.0.0", RouteKind::AlwaysDenied),
        ("2001:4860::1", RouteKind::Uplink),
        ("2001:db8::2", RouteKind::Host),
        ("fd12:3456:789a:1::2", RouteKind::Instance),
        ("fd00:ec2::254", RouteKind::AlwaysDenied),
        ("fe80::1", RouteKind::AlwaysDenied),
        ("ff02::1", RouteKind::AlwaysDenied),
        ("::", RouteKind::AlwaysDenied),
        ("::1", RouteKind::AlwaysDenied),
        ("::ffff:10.0.0.1", RouteKind::AlwaysDenied),
    ] {
        check(&map, address, kind);
    }
    let out = |address: &str| text(look_up(&map, address.parse().unwrap()).unwrap());
    assert_eq!(
        out("8.8.8.8"),
        "through device 2 by 192.0.2.1 as 192.0.2.2, MTU 1500"
    );
    assert_eq!(out("192.0.2.7"), "through device 2 as 192.0.2.2, MTU 1500");
    assert_eq!(
        out("2001:4860::1"),
        "through device 2 by fe80::1 as 2001:db8::2, MTU 1500"
    );
}

#[test]
fn uplink_routes_inside_forbidden_prefixes_are_left_out() {
    let map = compiled(vec![
        unicast("169.254.169.254/32", UPLINK, Some("192.0.2.1")),
        unicast("100.100.100.200/32", UPLINK, None),
        unicast("172.16.5.0/24", UPLINK, None),
        unicast("fd00:ec2::254/128", UPLINK, None),
        unicast("::ffff:0:0/96", UPLINK, None),
    ]);
    check(&map, "169.254.169.254", RouteKind::AlwaysDenied);
    check(&map, "100.100.100.200", RouteKind::AlwaysDenied);
    check(&map, "172.16.5.1", RouteKind::Instance);
    check(&map, "fd00:ec2::254", RouteKind::AlwaysDenied);
}

#[test]
fn nothing_inside_a_local_prefix_leads_out() {
    let local = route("10.0.0.0/8", KernelRouteKind::Local, 1, None);
    let map = compiled(vec![local, unicast("10.1.0.0/16", UPLINK, None)]);
    check(&map, "10.1.2.3", RouteKind::Host);
}

#[test]
fn the_lowest_metric_wins_and_equal_ones_deny() {
    let metric = |metric, route: KernelRoute| KernelRoute { metric, ..route };
    let through = |ifindex| unicast("10.0.0.0/8", ifindex, None);
    check(
        &compiled(vec![metric(5, through(UPLINK)), metric(9, through(3))]),
        "10.0.0.1",
        RouteKind::Uplink,
    );
    check(
        &compiled(vec![metric(9, through(UPLINK)), metric(5, through(3))]),
        "10.0.0.1",
        RouteKind::NotUplink,
    );
    check(
        &compiled(vec![through(UPLINK), through(3)]),
        "10.0.0.1",
        RouteKind::NotUplink,
    );
}

#[test]
fn refused_routes_cannot_be_reached() {
    let refused = route("10.0.0.0/8", KernelRouteKind::Refused, 0, None);
    let map = compiled(vec![refused, unicast("10.9.0.0/16", UPLINK, None)]);
    check(&map, "10.0.0.1", RouteKind::Unreachable);
    check(&map, "10.9.0.1", RouteKind::Uplink);
}

#[test]
fn a_route_has_the_smaller_mtu_and_its_own_source() {
    let route = KernelRoute {
        mtu: Some(1400),
        source: Some("192.0.2.9".parse().unwrap()),
        ..unicast("10.0.0.0/8", UPLINK, Some("192.0.2.1"))
    };
    let huge = KernelRoute {
        mtu: Some(9000),
        ..unicast("11.0.0.0/8", UPLINK, None)
    };
    let map = compiled(vec![route, huge]);
    let out = |address: &str| text(look_up(&map, address.parse().unwrap()).unwrap());
    assert_eq!(
        out("10.0.0.1"),
        "through device 2 by 192.0.2.1 as 192.0.2.9, MTU 1400"
    );
    assert_eq!(out("11.0.0.1"), "through device 2 as 192.0.2.2, MTU 1500");
}

#[test]
fn without_an_address_nothing_leads_out() {
    let mut observed = observed(vec![]);
    observed.links.get_mut(&UPLINK).unwrap().sources = vec!["fe80::5/64".parse().unwrap()];
    let (map, _) = compile(&wanted(), &observed);
    check(&map, "8.8.8.8", RouteKind::Unreachable);
    check(&map, "2001:4860::1", RouteKind::Unreachable);
}

#[test]
fn the_source_is_near_the_next_hop_else_the_kernels_first() {
    let mut observed = observed(vec![
        unicast("10.0.0.0/8", UPLINK, Some("198.51.100.1")),
        unicast("11.0.0.0/8", UPLINK, Some("203.0.113.1")),
        unicast("203.0.113.0/24", UPLINK, None),
    ]);
    observed.links.get_mut(&UPLINK).unwrap().sources = [
        "169.254.7.7/16",
        "198.51.100.9/24",
        "192.0.2.7/24",
        "192.0.2.2/24",
    ]
    .map(|source| source.parse().unwrap())
    .to_vec();
    let (map, _) = compile(&wanted(), &observed);
    for (address, source) in [
        // The next hop of the default route is 192.0.2.1.
        ("8.8.8.8", "192.0.2.7"),
        ("192.0.2.200", "192.0.2.7"),
        ("10.0.0.1", "198.51.100.9"),
        ("11.0.0.1", "198.51.100.9"),
        ("203.0.113.5", "198.51.100.9"),
    ] {
        let target = look_up(&map, address.parse().unwrap()).unwrap();
        assert_eq!(target.source, Some(source.parse().unwrap()), "{address}");
    }
}

#[test]
fn an_ipv4_route_by_an_ipv6_router_leads_nowhere() {
    let map = compiled(vec![unicast("10.0.0.0/8", UPLINK, Some("fe80::1"))]);
    check(&map, "10.0.0.1", RouteKind::Unreachable);
}

#[test]
fn a_global_ipv6_address_stands_before_a_unique_local_one() {
    let mut observed = observed(vec![]);
    let link = observed.links.get_mut(&UPLINK).unwrap();
    link.sources = vec![
        "fd77::1/64".parse().unwrap(),
        "2fd0::1/64".parse().unwrap(),
        "2a00::9/64".parse().unwrap(),
    ];
    let (map, _) = compile(&wanted(), &observed);
    let target = look_up(&map, "2001:4860::1".parse().unwrap()).unwrap();
    assert_eq!(target.source, Some("2fd0::1".parse().unwrap()));
    let near = look_up(&map, "fd77::5".parse().unwrap()).unwrap();
    assert_eq!(near.kind, RouteKind::Uplink);
}

#[test]
fn too_many_routes_lose_their_longest_ways_out_and_no_denial() {
    let many = (0..ROUTES_MAX).map(|number| {
        let network = Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 + (number << 4)), 28);
        unicast(&network.to_string(), UPLINK, None)
    });
    let denied = unicast("10.0.0.0/24", 3, None);
    let (map, problems) = compile(&wanted(), &observed(many.chain([denied]).collect()));
    assert!(matches!(
        problems.as_slice(),
        [Problem::TooManyRoutes { max: 15_360, .. }]
    ));
    let v4 = map.keys().filter(|prefix| prefix.addr().is_ipv4()).count();
    assert_eq!(v4, fit::WANTED_MAX);
    check(&map, "8.8.8.8", RouteKind::Uplink);
    check(&map, "172.17.0.5", RouteKind::NotUplink);
}

#[test]
fn more_denials_than_places_close_everything() {
    let many = (0..=ROUTES_MAX).map(|number| {
        let network = Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 + (number << 4)), 28);
        unicast(&network.to_string(), 3, None)
    });
    let (map, _) = compile(&wanted(), &observed(many.collect()));
    assert!(look_up(&map, "8.8.8.8".parse().unwrap()).is_none());
    check(&map, "169.254.169.254", RouteKind::AlwaysDenied);
    check(&map, "8::", RouteKind::Uplink);
}

/// From one full map to another, no step needs more places than there are.
fn check_change(before: &RouteMap, after: &RouteMap) -> Vec<Step> {
    let mut now = before.clone();
    let steps = plan_routes(before, after);
    // No change here is one of IPv6 routes.
    let v6 = now.keys().filter(|prefix| prefix.addr().is_ipv6()).count();
    for step in &steps {
        if let Step::SetRoute {
            destination,
            target,
        } = step
        {
            now.insert(*destination, *target);
        } else if let Step::RemoveRoute { destination } = step {
            now.remove(destination);
        }
        assert!(now.len() - v6 < ROUTES_MAX as usize);
    }
    assert_eq!(now, *after);
    steps
}

#[test]
fn a_change_never_needs_more_places_than_the_map_has() {
    let full = |base: u32, ifindex| {
        let many = (0..ROUTES_MAX).map(move |number| {
            let network = Ipv4Net::new_assert(Ipv4Addr::from(base + (number << 4)), 28);
            unicast(&network.to_string(), ifindex, None)
        });
        compile(&wanted(), &observed(many.collect())).0
    };
    // Denials that go for denials that come, ways out for denials, and the other way round.
    for (before, after) in [(3, 3), (UPLINK, 3), (3, UPLINK)] {
        let (before, after) = (full(0x0a00_0000, before), full(0x0b00_0000, after));
        let steps = check_change(&before, &after);
        let first_set = steps
            .iter()
            .position(|step| matches!(step, Step::SetRoute { .. }));
        let leads_out = before
            .values()
            .filter(|target| target.kind == RouteKind::Uplink);
        assert!(first_set.unwrap() >= leads_out.count());
    }
}

#[test]
fn a_small_change_of_a_full_map_closes_nothing_else() {
    let many = (0..ROUTES_MAX / 2).map(|number| {
        let network = Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 + (number << 4)), 28);
        unicast(&network.to_string(), UPLINK, None)
    });
    let mut routes: Vec<KernelRoute> = many.collect();
    let before = compiled(routes.clone());
    routes.push(unicast("11.0.0.0/8", 3, None));
    let steps = check_change(&before, &compiled(routes));
    assert_eq!(steps.len(), 2);
}

/// Routes near the forbidden prefixes, so that they meet.
fn any_route() -> impl Strategy<Value = KernelRoute> {
    let bases: Vec<IpNet> = always_denied()
        .into_iter()
        .chain(wanted().datapath.pools)
        .collect();
    let kinds = [
        KernelRouteKind::Unicast,
        KernelRouteKind::Unicast,
        KernelRouteKind::Unicast,
        KernelRouteKind::Local,
        KernelRouteKind::Broadcast,
        KernelRouteKind::Refused,
    ];
    let place = (prop::sample::select(bases), any::<u128>(), 0_u8..=128);
    let rest = (
        prop::sample::select(kinds.to_vec()),
        1_u32..4,
        0_u32..3,
        any::<bool>(),
    );
    (place, rest).prop_map(|((base, noise, len), (kind, ifindex, metric, near))| {
        let destination = match base {
            IpNet::V4(net) => {
                let noise = noise as u32
                    & if near {
                        u32::from(net.hostmask())
                    } else {
                        u32::MAX
                    };
                let address = Ipv4Addr::from(u32::from(net.addr()) ^ noise);
                IpNet::V4(Ipv4Net::new_assert(address, len % 33).trunc())
            }
            IpNet::V6(net) => {
                let noise = noise
                    & if near {
                        u128::from(net.hostmask())
                    } else {
                        u128::MAX
                    };
                let address = Ipv6Addr::from(u128::from(net.addr()) ^ noise);
                IpNet::V6(Ipv6Net::new_assert(address, len).trunc())
            }
        };
        KernelRoute {
            destination,
            kind,
            ifindex,
            gateway: None,
            source: None,
            metric,
            mtu: None,
        }
    })
}

/// Ends of every prefix: where a look-up changes, it changes there.
fn corners(maps: &[&RouteMap]) -> Vec<IpAddr> {
    let prefixes = maps.iter().flat_map(|map| map.keys());
    let mut corners: Vec<IpAddr> = prefixes
        .flat_map(|prefix| [prefix.network(), prefix.broadcast()])
        .collect();
    corners.extend(
        always_denied()
            .iter()
            .flat_map(|prefix| [prefix.network(), prefix.broadcast()]),
    );
    corners
}

fn leads_out(map: &RouteMap, address: IpAddr) -> bool {
    look_up(map, address).is_some_and(|target| target.kind == RouteKind::Uplink)
}

proptest! {
    // Every case looks up every corner of every state on the way.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_forbidden_address_ever_leads_out(
        routes in prop::collection::vec(any_route(), 0..40), noise: u128,
    ) {
        let map = compiled(routes.clone());
        let closed = always_denied().into_iter().chain(wanted().datapath.pools);
        let own = routes.iter().filter(|route| route.kind == KernelRouteKind::Local);
        for prefix in closed.chain(own.map(|route| route.destination)) {
            let inside = match prefix {
                IpNet::V4(net) => IpAddr::V4((u32::from(net.network()) | (noise as u32 & u32::from(net.hostmask()))).into()),
                IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) | (noise & u128::from(net.hostmask()))).into()),
            };
            for address in corners(&[&map]).into_iter().filter(|address| prefix.contains(address)).chain([inside]) {
                prop_assert!(!leads_out(&map, address), "{} in {}", address, prefix);
            }
        }
    }

    #[test]
    fn a_change_opens_nothing_that_was_closed_before_and_after(
        before in prop::collection::vec(any_route(), 0..20),
        after in prop::collection::vec(any_route(), 0..20),
    ) {
        let (before, after) = (compiled(before), compiled(after));
        let corners = corners(&[&before, &after]);
        let mut now = before.clone();
        for step in plan_routes(&before, &after) {
            if let Step::SetRoute { destination, target } = step {
                now.insert(destination, target);
            } else if let Step::RemoveRoute { destination } = step {
                now.remove(&destination);
            }
            for address in &corners {
                let allowed = leads_out(&before, *address) || leads_out(&after, *address);
                prop_assert!(allowed || !leads_out(&now, *address), "{}", address);
            }
        }
        prop_assert_eq!(now, after);
    }
}
