//! Policies of many networks: what they cost a packet, a new flow, and those who replace them under traffic.

mod lists;
mod replacing;

use crate::costs::{Costs, Rate};
use crate::figures::Figures;
use crate::flows::{self, FLOWS};
use crate::load::Load;
use crate::path::{self, Flows, SHORT};
use crate::report::{Better, Table};
use crate::session::Session;
use crate::slices::{self, SLICES, in_turn};
use crate::variant::Variant;
use lists::Way;

/// Networks of the lists that are compared.
const SIZES: [u32; 3] = [0, 1_000, 100_000];
/// Frames of one measurement.
const FRAMES: u32 = 100_000;
/// Frames before it.
const WARM_UP: u32 = 50_000;
/// Rounds of a full run.
const ROUNDS: u32 = 5;
/// The same where each has namespaces of its own.
const FRESH_ROUNDS: u32 = 3;
/// What is left of the rate of established flows with the longest list, and of that of new ones.
const LEFT: [f64; 2] = [0.97, 0.9];

/// Measures all of it.
pub fn run(session: &mut Session) {
    let (mut places, mut missing) = (Vec::new(), Vec::new());
    for way in Way::ALL {
        if let Some(reason) = way.missing() {
            missing.push((way, reason));
            continue;
        }
        let sizes = SIZES.into_iter().filter(|size| way.holds(*size));
        places.extend(sizes.map(|size| (way, size)));
    }
    established(session, &places, &missing);
    new_flows(session, &places, &missing);
}

/// Measures what happens while lists are replaced.
pub fn replaced(session: &mut Session) {
    replacing::replacing(session);
    replacing::never(session);
}

fn established(session: &mut Session, places: &[(Way, u32)], missing: &[(Way, String)]) {
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("established flows under policies", rounds);
    let mut ready: Vec<(Way, u32, Variant, Load)> = places
        .iter()
        .map(|(way, size)| {
            let variant = way.prepare(*size);
            let mut flows = Flows::udp(&variant.ends, 1, SHORT);
            path::establish(&variant, &mut flows);
            let mut load = Load::Up(flows);
            load.warm_up(&variant, WARM_UP);
            (*way, *size, variant, load)
        })
        .collect();
    let (mut costs, count) = (Costs::default(), session.count(FRAMES));
    for _ in 0..rounds {
        let found = in_turn(&mut ready, |(.., variant, load)| {
            load.measure(variant, count / SLICES)
        });
        for ((way, size, ..), cost) in ready.iter().zip(found) {
            costs.add_at(way.name(), Some(f64::from(*size)), cost);
        }
        bar.inc(1);
    }
    let title = "64-byte frames of an established flow under a list of denied networks";
    let mut tables = costs.tables(
        ("policy/established", title),
        Rate::FRAMES,
        Some("networks"),
    );
    tables[0].note(slices::NOTE);
    report(session, tables, missing);
    judge(session, &costs, ("established flows", LEFT[0]));
}

fn new_flows(session: &mut Session, places: &[(Way, u32)], missing: &[(Way, String)]) {
    for is_v4 in [true, false] {
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        // The others' sets of either family are alike.
        let own = |place: &&(Way, u32)| is_v4 || place.0 == Way::Netagent;
        let rounds = session.rounds(FRESH_ROUNDS);
        let bar = session.bar("new flows under policies", rounds);
        let mut costs = Costs::default();
        for _ in 0..rounds {
            for (way, size) in places.iter().filter(own) {
                let cost = flows::open_all(way.prepare(*size), is_v4, FLOWS);
                costs.add_at(way.name(), Some(f64::from(*size)), cost);
            }
            bar.inc(1);
        }
        let id = format!("policy/flows/{}", family.to_lowercase());
        let title = format!("new flows of {family} under a list of denied networks");
        let tables = costs.tables((&id, &title), Rate::FLOWS, Some("networks"));
        report(session, tables, missing);
        judge(
            session,
            &costs,
            (&format!("new flows of {family}"), LEFT[1]),
        );
    }
}

fn report(session: &mut Session, [mut time, rate]: [Table; 2], missing: &[(Way, String)]) {
    time.note("half of the networks are of each family; each list was seen to deny");
    time.note("nft and iptables accept established connections before they ask their lists: what they deny later on goes on; netagent ends it");
    time.note("a rule for each network is measured up to 1,000 of them");
    for (way, reason) in missing {
        time.note(format!("{}: not on this machine: {reason}", way.name()));
    }
    session.add(time);
    session.add(rate);
}

/// What is left of netagent's rate under each list.
fn judge(session: &mut Session, costs: &Costs, (what, target): (&str, f64)) {
    let place = |size: u32| (Way::Netagent.name(), Some(f64::from(size)));
    for size in SIZES.into_iter().skip(1) {
        let rounds = costs.rounds_at([place(0), place(size)]);
        let left: Figures = rounds.iter().map(|[none, some]| none / some).collect();
        let what = format!("{what}: rate with {size} networks / with none");
        session.goal(&what, left.median(), (Better::Higher, target));
    }
}
