//! What is there and no longer wanted: link down, record out of force, programs off, link gone.

use std::collections::{BTreeMap, BTreeSet};

use netagent_common::policy::policy_flag::LEG;

use crate::plan::interfaces::is_tap_of;
use crate::plan::{
    Lent, Observed, ObservedDatapath, ObservedLink, Owner, Plan, Step, Wanted, WantedInterface,
    alias_prefix,
};

/// Removes every link of this store and every record in force that nobody wants; what was lent is given back.
pub(crate) fn plan_leftovers(wanted: &Wanted, observed: &Observed, plan: &mut Plan) {
    let prefix = alias_prefix(wanted.store_id);
    let kept: BTreeMap<u32, &WantedInterface> = wanted
        .interfaces
        .values()
        .map(|wanted| (wanted.tap.ifindex, wanted))
        .collect();
    let links = observed.links.iter().filter(|(ifindex, link)| {
        let wanted = kept.get(ifindex);
        let stays = wanted.is_some_and(|interface| is_tap_of(link, **ifindex, interface));
        link.is_of(&prefix) && !stays && !link.is_way_to_servers()
    });
    let wanted_slots: BTreeSet<u32> = wanted
        .interfaces
        .values()
        .flat_map(|interface| {
            let leg = interface.leg.as_ref();
            [Some(&interface.record), leg].into_iter().flatten()
        })
        .map(|record| record.slot)
        .collect();
    let slots = in_force(observed, |slot| !wanted_slots.contains(slot));
    plan_all(links, slots, (&wanted.lent, observed), plan);
}

/// Removes earlier TAPs of interfaces that start now with a new one.
pub(crate) fn plan_replaced(wanted: &Wanted, observed: &Observed, plan: &mut Plan) {
    let aliases: BTreeMap<&str, &WantedInterface> = wanted
        .interfaces
        .values()
        .map(|interface| (interface.tap.alias.as_str(), interface))
        .collect();
    let links = observed.links.iter().filter(|(ifindex, link)| {
        let alias = link.alias.as_deref();
        let wanted = alias.and_then(|alias| aliases.get(alias));
        wanted.is_some_and(|interface| !is_tap_of(link, **ifindex, interface))
    });
    plan_all(links, BTreeSet::new(), (&wanted.lent, observed), plan);
}

/// Removes the links with these aliases and the records in these slots.
pub(crate) fn plan_removal(
    (aliases, slots): (&BTreeSet<String>, &BTreeSet<u32>),
    lent: &Lent,
    observed: &Observed,
    plan: &mut Plan,
) {
    let links = observed.links.iter().filter(|(_, link)| {
        let alias = link.alias.as_ref();
        alias.is_some_and(|alias| aliases.contains(alias))
    });
    let in_force = in_force(observed, |slot| slots.contains(slot));
    plan_all(links, in_force, (lent, observed), plan);
}

/// Slots in force that are of interest.
fn in_force(observed: &Observed, of_interest: impl Fn(&u32) -> bool) -> BTreeSet<u32> {
    let datapath = observed.datapath.iter();
    let slots = datapath.flat_map(|datapath| datapath.interfaces.keys());
    slots.filter(|slot| of_interest(slot)).copied().collect()
}

fn plan_all<'a>(
    links: impl Iterator<Item = (&'a u32, &'a ObservedLink)>,
    mut slots: BTreeSet<u32>,
    (lent, observed): (&Lent, &Observed),
    plan: &mut Plan,
) {
    let before = plan.groups.len();
    let records = observed.datapath.iter();
    let records: BTreeMap<u32, u32> = records
        .flat_map(|datapath| datapath.interfaces.values())
        // That of a leg bears the index of its relay's.
        .filter(|record| record.policy_flags & LEG == 0)
        .map(|record| (record.ifindex, record.slot))
        .collect();
    for (ifindex, link) in links {
        let slot = records.get(ifindex).copied();
        if let Some(slot) = slot {
            slots.remove(&slot);
        }
        let steps = plan_link((*ifindex, link), slot, lent, observed);
        plan.push(Owner::Leftover, steps);
    }
    for slot in slots {
        plan.push(Owner::Leftover, vec![Step::ClearInterface { slot }]);
    }
    if plan.groups.len() > before {
        plan.push(Owner::Leftover, vec![Step::CollectFlows]);
    }
}

fn plan_link(
    (ifindex, link): (u32, &ObservedLink),
    slot: Option<u32>,
    lent: &Lent,
    observed: &Observed,
) -> Vec<Step> {
    let mut steps = Vec::new();
    if link.up {
        steps.push(Step::SetLinkDown { ifindex });
    }
    steps.extend(slot.map(|slot| Step::ClearInterface { slot }));
    let attached = |datapath: &ObservedDatapath| datapath.attached.contains(&ifindex);
    if observed.datapath.as_ref().is_some_and(attached) {
        steps.push(Step::DetachTap { ifindex });
    }
    let name = link.name.clone();
    let alias = link.alias.clone().unwrap_or_default();
    steps.push(if link.is_lent() {
        let before = lent.get(&alias).cloned().map(Box::new);
        Step::ReturnTap {
            ifindex,
            name,
            before,
        }
    } else {
        Step::RemoveLink {
            ifindex,
            name,
            alias,
        }
    });
    steps
}
