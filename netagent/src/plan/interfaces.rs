//! One interface: record, TAP, programs, addresses, and only then the link up (P-4).

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use netagent_common::net::{GATEWAY_MAC, GATEWAY_V6};

use crate::plan::{
    KernelRouteKind, Neighbour, Observed, ObservedLink, Owner, Plan, Problem, Step, Wanted,
    WantedInterface, alias_prefix,
};

/// Groups the steps by instance, so that a failure ends those of its instance alone.
pub(crate) fn plan_interfaces(wanted: &Wanted, observed: &Observed, plan: &mut Plan) {
    let mut groups: std::collections::BTreeMap<u32, Vec<Step>> = std::collections::BTreeMap::new();
    let prefix = alias_prefix(wanted.store_id);
    for interface in wanted.interfaces.values() {
        let instance = interface.record.instance;
        match find_problem(interface, observed, &prefix) {
            Some(problem) => plan.problems.push(problem),
            None => groups
                .entry(instance)
                .or_default()
                .extend(plan_interface(interface, observed)),
        }
    }
    for (instance, steps) in groups {
        plan.push(Owner::Instance(instance), steps);
    }
}

/// Whether the link is the TAP that `interface` wants: made by us, or half made before it had its alias.
pub(crate) fn is_tap_of(link: &ObservedLink, ifindex: u32, interface: &WantedInterface) -> bool {
    let tap = &interface.tap;
    let ours = match &link.alias {
        Some(alias) => *alias == tap.alias,
        None => link.name == tap.name,
    };
    ifindex == tap.ifindex && ours
}

fn find_problem(interface: &WantedInterface, observed: &Observed, prefix: &str) -> Option<Problem> {
    let tap = &interface.tap;
    let instance = interface.record.instance;
    if let Some(link) = observed.links.get(&tap.ifindex) {
        if !is_tap_of(link, tap.ifindex, interface) {
            return Some(Problem::ForeignDevice {
                instance,
                name: link.name.clone(),
            });
        }
        if link.name != tap.name {
            let (name, wanted) = (link.name.clone(), tap.name.clone());
            return Some(Problem::Renamed {
                instance,
                name,
                wanted,
            });
        }
        return None;
    }
    let holder = observed.links.values().find(|link| link.name == tap.name)?;
    // One of our own that is no longer wanted is removed before this interface's turn.
    (!holder.is_of(prefix)).then(|| Problem::ForeignDevice {
        instance,
        name: holder.name.clone(),
    })
}

fn plan_interface(interface: &WantedInterface, observed: &Observed) -> Vec<Step> {
    let tap = &interface.tap;
    let ifindex = tap.ifindex;
    let datapath = observed.datapath.as_ref();
    let written = datapath.is_some_and(|datapath| {
        datapath.interfaces.get(&interface.record.slot) == Some(&interface.record)
    });
    // A half-made TAP is made anew: whoever keeps it alive is not its maker.
    let link = observed
        .links
        .get(&ifindex)
        .filter(|link| !link.is_half_made());
    let attached =
        link.is_some() && datapath.is_some_and(|datapath| datapath.attached.contains(&ifindex));
    let mut steps = Vec::new();
    // Up without programs: somebody else's doing. It goes down until they are back.
    let open = link.is_some_and(|link| link.up) && !attached;
    if open {
        steps.push(Step::SetLinkDown { ifindex });
    }
    if !written {
        steps.push(Step::WriteInterface {
            record: Box::new(interface.record),
        });
    }
    match link {
        None => steps.push(Step::CreateTap { tap: tap.clone() }),
        Some(link) if !is_configured(link, interface) => {
            steps.push(Step::ConfigureTap { tap: tap.clone() });
        }
        Some(_) => {}
    }
    if !attached {
        steps.push(Step::AttachTap {
            ifindex,
            name: tap.name.clone(),
        });
    }
    // A link that goes down loses its IPv6 addresses, neighbours and routes.
    let kept = !open && link.is_some();
    plan_addresses(interface, observed, link, kept, &mut steps);
    if open || !link.is_some_and(|link| link.up) {
        steps.push(Step::SetLinkUp { ifindex });
    }
    plan_guest_route(interface, observed, kept, &mut steps);
    steps
}

fn is_configured(link: &ObservedLink, interface: &WantedInterface) -> bool {
    let tap = &interface.tap;
    // One that lost every IPv6 address may have had IPv6 switched off, and would take none.
    let has_v6 = link
        .addresses
        .iter()
        .any(|address| address.addr().is_ipv6());
    link.hardened
        && link.mac == GATEWAY_MAC
        && link.mtu == tap.mtu
        && link.alias.as_ref() == Some(&tap.alias)
        && (has_v6 || !tap.v6)
}

/// Addresses of the gateway on the TAP.
fn gateway_addresses(interface: &WantedInterface) -> Vec<IpNet> {
    let mut addresses = vec![IpNet::V4(interface.host_v4)];
    if interface.guest_v6.is_some() {
        addresses.push(IpNet::V6(Ipv6Net::new_assert(GATEWAY_V6.into(), 64)));
    }
    addresses
}

fn plan_addresses(
    interface: &WantedInterface,
    observed: &Observed,
    link: Option<&ObservedLink>,
    kept: bool,
    steps: &mut Vec<Step>,
) {
    let ifindex = interface.tap.ifindex;
    for address in gateway_addresses(interface) {
        let survives = kept || address.addr().is_ipv4();
        if !(survives && link.is_some_and(|link| link.addresses.contains(&address))) {
            steps.push(Step::AddAddress { ifindex, address });
        }
    }
    let guests = [
        Some(IpAddr::V4(interface.guest_v4)),
        interface.guest_v6.map(IpAddr::V6),
    ];
    for address in guests.into_iter().flatten() {
        let neighbour = Neighbour {
            ifindex,
            address,
            mac: interface.record.guest_mac,
        };
        if !(kept && observed.neighbours.contains(&neighbour)) {
            steps.push(Step::AddNeighbour { neighbour });
        }
    }
}

fn plan_guest_route(
    interface: &WantedInterface,
    observed: &Observed,
    kept: bool,
    steps: &mut Vec<Step>,
) {
    let (ifindex, Some(guest)) = (interface.tap.ifindex, interface.guest_v6) else {
        return;
    };
    let destination = IpNet::from(IpAddr::V6(guest));
    let there = observed.routes.iter().any(|route| {
        route.ifindex == ifindex
            && route.destination == destination
            && route.kind == KernelRouteKind::Unicast
    });
    if !(kept && there) {
        steps.push(Step::AddGuestRoute {
            ifindex,
            guest: IpAddr::V6(guest),
        });
    }
}
