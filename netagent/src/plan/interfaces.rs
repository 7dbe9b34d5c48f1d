//! One interface: record, TAP, programs, addresses, and only then the link up (P-4).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use netagent_common::net::{GATEWAY_MAC, GATEWAY_V6};

use crate::plan::{
    KernelRouteKind, Neighbour, Observed, ObservedLink, Owner, Plan, Problem, Step, Wanted,
    WantedInterface, alias_prefix, legs, policies, publish,
};

/// What is asked of an observation for every interface, found without a search.
struct Index<'a> {
    names: BTreeMap<&'a str, &'a ObservedLink>,
    routes: BTreeSet<(u32, IpNet)>,
}

impl<'a> Index<'a> {
    fn of(observed: &'a Observed) -> Self {
        let links = observed.links.values();
        let routes = observed.routes.iter();
        Self {
            names: links.map(|link| (link.name.as_str(), link)).collect(),
            routes: routes
                .filter(|route| route.kind == KernelRouteKind::Unicast)
                .map(|route| (route.ifindex, route.destination))
                .collect(),
        }
    }
}

/// Groups the steps by instance, so that a failure ends those of its instance alone.
pub(crate) fn plan_interfaces(wanted: &Wanted, observed: &Observed, plan: &mut Plan) {
    let mut ports = publish::plan_ports(wanted, observed);
    let mut groups: BTreeMap<u32, Steps> = BTreeMap::new();
    let prefix = alias_prefix(wanted.store_id);
    let index = Index::of(observed);
    plan.problems.extend(find_snat_problems(wanted, observed));
    for interface in wanted.interfaces.values() {
        let instance = interface.record.instance;
        let problem = if interface.tap.lent {
            find_lent_problem(interface, observed, &index)
        } else {
            find_problem(interface, observed, &index, &prefix)
        };
        let steps = groups.entry(instance).or_default();
        match problem {
            Some(problem) => {
                plan.problems.push(problem);
                // Whatever became of its device: what the programs know of it is to be what is wanted.
                if is_in_force(interface, observed) {
                    policies::plan_named(interface, wanted, observed, &mut steps.policies);
                    legs::plan_leg(interface, observed, &mut steps.legs);
                    plan_record(interface, observed, &mut steps.records);
                }
            }
            None => {
                policies::plan_named(interface, wanted, observed, &mut steps.policies);
                plan_interface(interface, observed, &index, steps);
            }
        }
    }
    for (instance, steps) in &mut groups {
        let ports = ports.remove(instance).unwrap_or_default();
        plan.push(Owner::Instance(*instance), steps.in_order(ports));
    }
    for (instance, ports) in ports {
        plan.push(Owner::Instance(instance), ports);
    }
}

/// The steps for the interfaces of one instance. What denies comes before everything that may fail, for all of them:
/// a step that fails ends the group.
#[derive(Default)]
struct Steps {
    /// Links that are up without programs go down.
    down: Vec<Step>,
    policies: Vec<Step>,
    legs: Vec<Step>,
    records: Vec<Step>,
    devices: Vec<Step>,
    /// Without them the filters deny.
    drop_all: Vec<Step>,
}

impl Steps {
    /// All of them with those of the ports, before which no record with the new policy generation is in force (P-9).
    fn in_order(&mut self, ports: Vec<Step>) -> Vec<Step> {
        let mut steps = std::mem::take(&mut self.down);
        steps.append(&mut self.policies);
        steps.extend(ports);
        steps.append(&mut self.legs);
        steps.append(&mut self.records);
        steps.append(&mut self.devices);
        steps.append(&mut self.drop_all);
        steps
    }
}

/// Whether a record of this start of the interface is in force, whatever else it says.
fn is_in_force(interface: &WantedInterface, observed: &Observed) -> bool {
    let wanted = &interface.record;
    let datapath = observed.datapath.as_ref();
    datapath
        .and_then(|datapath| datapath.interfaces.get(&wanted.slot))
        .is_some_and(|record| {
            (record.ifindex, record.generation) == (wanted.ifindex, wanted.generation)
        })
}

fn plan_record(interface: &WantedInterface, observed: &Observed, steps: &mut Vec<Step>) {
    let datapath = observed.datapath.as_ref();
    let written = datapath.is_some_and(|datapath| {
        datapath.interfaces.get(&interface.record.slot) == Some(&interface.record)
    });
    if !written {
        steps.push(Step::WriteInterface {
            record: Box::new(interface.record),
        });
    }
}

/// Whether the link is the TAP that `interface` wants: made by us, half made before it had its alias, or lent.
pub(crate) fn is_tap_of(link: &ObservedLink, ifindex: u32, interface: &WantedInterface) -> bool {
    let tap = &interface.tap;
    let ours = match &link.alias {
        _ if tap.lent => link.name == tap.name,
        Some(alias) => *alias == tap.alias,
        None => link.name == tap.name,
    };
    ifindex == tap.ifindex && ours
}

/// Addresses under which instances are to leave and that the host does not have: the programs drop what would leave
/// under another (N-8).
fn find_snat_problems(wanted: &Wanted, observed: &Observed) -> Vec<Problem> {
    let records = wanted
        .interfaces
        .values()
        .map(|interface| &interface.record);
    let addresses = records.flat_map(|record| {
        let v4 = Some(record.snat_v4).filter(|address| *address != [0; 4]);
        let v6 = Some(record.snat_v6).filter(|address| *address != [0; 16]);
        let both = [v4.map(IpAddr::from), v6.map(IpAddr::from)];
        let present = both.into_iter().flatten();
        present.map(|address| (record.instance, address))
    });
    let addresses: BTreeSet<(u32, IpAddr)> = addresses.collect();
    let gone = addresses.into_iter();
    gone.filter(|(_, address)| lacks_address(observed, *address))
        .map(|(instance, address)| Problem::SnatAddressGone { instance, address })
        .collect()
}

/// Whether an address is none of the host's by its routes, which the programs go by.
pub(crate) fn lacks_address(observed: &Observed, address: IpAddr) -> bool {
    let mut routes = observed.routes.iter();
    !routes
        .any(|route| route.kind == KernelRouteKind::Local && route.destination.contains(&address))
}

/// An existing TAP is found by its name; one that was made anew has another index and is a new start's.
fn find_lent_problem(
    interface: &WantedInterface,
    observed: &Observed,
    index: &Index<'_>,
) -> Option<Problem> {
    let tap = &interface.tap;
    let (instance, name) = (interface.record.instance, tap.name.clone());
    let link = observed.links.get(&tap.ifindex);
    let found = link.filter(|link| link.name == tap.name && link.tap);
    match found {
        Some(_) => None,
        None if index.names.contains_key(tap.name.as_str()) => {
            Some(Problem::NotTheTap { instance, name })
        }
        None => Some(Problem::TapGone { instance, name }),
    }
}

fn find_problem(
    interface: &WantedInterface,
    observed: &Observed,
    index: &Index<'_>,
    prefix: &str,
) -> Option<Problem> {
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
    let holder = index.names.get(tap.name.as_str())?;
    // One of our own that is no longer wanted is removed before this interface's turn.
    (!holder.is_of(prefix)).then(|| Problem::ForeignDevice {
        instance,
        name: holder.name.clone(),
    })
}

fn plan_interface(
    interface: &WantedInterface,
    observed: &Observed,
    index: &Index<'_>,
    steps: &mut Steps,
) {
    let tap = &interface.tap;
    let ifindex = tap.ifindex;
    let datapath = observed.datapath.as_ref();
    // A half-made TAP is made anew: whoever keeps it alive is not its maker.
    let link = observed
        .links
        .get(&ifindex)
        .filter(|link| tap.lent || !link.is_half_made());
    let attached =
        link.is_some() && datapath.is_some_and(|datapath| datapath.attached.contains(&ifindex));
    let dropping =
        link.is_some() && datapath.is_some_and(|datapath| datapath.drop_all.contains(&ifindex));
    // Up without programs: somebody else's doing. It goes down until they are back.
    let open = link.is_some_and(|link| link.up) && !attached;
    if open {
        steps.down.push(Step::SetLinkDown { ifindex });
    }
    legs::plan_leg(interface, observed, &mut steps.legs);
    plan_record(interface, observed, &mut steps.records);
    let drop_all = &mut steps.drop_all;
    let steps = &mut steps.devices;
    // After the record that allows: without it, the filters deny.
    if dropping && !interface.drop_all {
        steps.push(Step::DetachDropAll { ifindex });
    }
    match link {
        None => steps.push(Step::CreateTap { tap: tap.clone() }),
        Some(link) if !is_configured(link, interface) => steps.push(if tap.lent {
            Step::AdoptTap { tap: tap.clone() }
        } else {
            Step::ConfigureTap { tap: tap.clone() }
        }),
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
    plan_addresses(interface, observed, link, kept, steps);
    if open || !link.is_some_and(|link| link.up) {
        steps.push(Step::SetLinkUp { ifindex });
    }
    plan_guest_routes(interface, index, kept, steps);
    if interface.drop_all && !dropping {
        let name = tap.name.clone();
        drop_all.push(Step::AttachDropAll { ifindex, name });
    }
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

/// A pool interface's /30 leads to its guest by itself; a custom one has no network on its TAP (I-8).
fn plan_guest_routes(
    interface: &WantedInterface,
    index: &Index<'_>,
    kept: bool,
    steps: &mut Vec<Step>,
) {
    let ifindex = interface.tap.ifindex;
    let custom = !interface.host_v4.contains(&interface.guest_v4);
    let guests = [
        custom.then_some(IpAddr::V4(interface.guest_v4)),
        interface.guest_v6.map(IpAddr::V6),
    ];
    for guest in guests.into_iter().flatten() {
        if !(kept && index.routes.contains(&(ifindex, IpNet::from(guest)))) {
            steps.push(Step::AddGuestRoute { ifindex, guest });
        }
    }
}
