//! Legs: what stands for an interface behind its relay, and leads nowhere while the relay is not there.

use netagent_common::vm::Interface;

use crate::plan::{Observed, Owner, Plan, Step, Wanted, WantedInterface};

/// Whether the TAP of a relay is there for its clients: made and attached, and held by a VMM.
#[must_use]
pub(crate) fn is_there(ifindex: u32, observed: &Observed) -> bool {
    let link = observed.links.get(&ifindex);
    let datapath = observed.datapath.as_ref();
    link.is_some_and(|link| link.tap && link.up && link.carrier)
        && datapath.is_some_and(|datapath| datapath.attached.contains(&ifindex))
}

/// The record of a leg as it should be now.
pub(crate) fn wanted_now(leg: &Interface, observed: &Observed) -> Interface {
    if is_there(leg.ifindex, observed) {
        return *leg;
    }
    Interface {
        ifindex: 0,
        guest_mac: [0; 6],
        ..*leg
    }
}

/// Legs that lead to a TAP that is not, or no longer, the relay's: before anything of that TAP changes, they lead where they
/// should. Nobody's failure keeps them from it.
pub(crate) fn plan_turned(wanted: &Wanted, observed: &Observed, plan: &mut Plan) {
    let legs = wanted
        .interfaces
        .values()
        .filter_map(|one| one.leg.as_ref());
    let turned = legs
        .map(|leg| wanted_now(leg, observed))
        .filter(|leg| is_turned(leg, observed));
    for leg in turned {
        plan.push(Owner::Leftover, vec![write(leg)]);
    }
}

/// The leg of an interface that starts or changes, in front of its own record.
pub(crate) fn plan_leg(interface: &WantedInterface, observed: &Observed, steps: &mut Vec<Step>) {
    let Some(leg) = &interface.leg else {
        return;
    };
    let leg = wanted_now(leg, observed);
    if in_force(leg.slot, observed) != Some(&leg) && !is_turned(&leg, observed) {
        steps.push(write(leg));
    }
}

/// Whether the leg in force leads to another TAP.
fn is_turned(leg: &Interface, observed: &Observed) -> bool {
    let found = in_force(leg.slot, observed);
    found.is_some_and(|found| found.ifindex != 0 && found.ifindex != leg.ifindex)
}

fn in_force(slot: u32, observed: &Observed) -> Option<&Interface> {
    observed.datapath.as_ref()?.interfaces.get(&slot)
}

fn write(leg: Interface) -> Step {
    let record = Box::new(leg);
    Step::WriteInterface { record }
}
