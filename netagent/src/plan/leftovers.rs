//! What is there and no longer wanted: link down, record out of force, programs off, link gone.

use std::collections::BTreeSet;

use crate::plan::interfaces::is_tap_of;
use crate::plan::{Observed, ObservedLink, Owner, Plan, Step, Wanted, alias_prefix};

/// Removes every link of this store and every record in force that nobody wants.
pub(crate) fn plan_leftovers(wanted: &Wanted, observed: &Observed, plan: &mut Plan) {
    let prefix = alias_prefix(wanted.store_id);
    let kept: BTreeSet<u32> = wanted
        .interfaces
        .values()
        .map(|wanted| wanted.tap.ifindex)
        .collect();
    let links = observed.links.iter().filter(|(ifindex, link)| {
        let stays = kept.contains(ifindex)
            && wanted
                .interfaces
                .values()
                .any(|interface| is_tap_of(link, **ifindex, interface));
        link.is_of(&prefix) && !stays
    });
    let wanted_slots: BTreeSet<u32> = wanted
        .interfaces
        .values()
        .map(|interface| interface.record.slot)
        .collect();
    let records = observed
        .datapath
        .iter()
        .flat_map(|datapath| datapath.interfaces.keys());
    let slots = records
        .filter(|slot| !wanted_slots.contains(slot))
        .copied()
        .collect();
    plan_all(links, slots, observed, plan);
}

/// Removes earlier TAPs of interfaces that start now with a new one.
pub(crate) fn plan_replaced(wanted: &Wanted, observed: &Observed, plan: &mut Plan) {
    let links = observed.links.iter().filter(|(ifindex, link)| {
        wanted.interfaces.values().any(|interface| {
            link.alias.as_ref() == Some(&interface.tap.alias)
                && !is_tap_of(link, **ifindex, interface)
        })
    });
    plan_all(links, BTreeSet::new(), observed, plan);
}

/// Removes the links with these aliases and the records in these slots.
pub(crate) fn plan_removal(
    aliases: &BTreeSet<String>,
    slots: &BTreeSet<u32>,
    observed: &Observed,
    plan: &mut Plan,
) {
    let links = observed.links.iter().filter(|(_, link)| {
        link.alias
            .as_ref()
            .is_some_and(|alias| aliases.contains(alias))
    });
    let records = observed
        .datapath
        .iter()
        .flat_map(|datapath| datapath.interfaces.keys());
    let in_force = records
        .filter(|slot| slots.contains(slot))
        .copied()
        .collect();
    plan_all(links, in_force, observed, plan);
}

fn plan_all<'a>(
    links: impl Iterator<Item = (&'a u32, &'a ObservedLink)>,
    mut slots: BTreeSet<u32>,
    observed: &Observed,
    plan: &mut Plan,
) {
    let before = plan.groups.len();
    for (ifindex, link) in links {
        let steps = plan_link(*ifindex, link, observed, &mut slots);
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
    ifindex: u32,
    link: &ObservedLink,
    observed: &Observed,
    slots: &mut BTreeSet<u32>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    if link.up {
        steps.push(Step::SetLinkDown { ifindex });
    }
    if let Some(datapath) = &observed.datapath {
        let record = datapath
            .interfaces
            .values()
            .find(|record| record.ifindex == ifindex);
        if let Some(record) = record {
            slots.remove(&record.slot);
            steps.push(Step::ClearInterface { slot: record.slot });
        }
        if datapath.attached.contains(&ifindex) {
            steps.push(Step::DetachTap { ifindex });
        }
    }
    let alias = link.alias.clone().unwrap_or_default();
    steps.push(Step::RemoveLink {
        ifindex,
        name: link.name.clone(),
        alias,
    });
    steps
}
