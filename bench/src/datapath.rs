//! What a frame costs on every way: from the TAP to the uplink, back, and from one TAP to another.
//!
//! Each repetition prepares all ways anew, and takes all rows on them in turn.

use crate::across;
use crate::costs::{Costs, Rate};
use crate::figures::Figures;
use crate::gso;
use crate::insist::insist;
use crate::load::Load;
use crate::path::{self, Flows, LONG, SHORT};
use crate::peers::note_missing;
use crate::report::Better;
use crate::reverse::{self, Opener};
use crate::session::Session;
use crate::slices::{self, SLICES, in_turn};
use crate::variant::{Kind, OPEN, Variant};
use netagent_tests::frame::VNET_HEADER_LEN;

/// Repetitions.
const ROUNDS: u32 = 7;
/// Frames before each measurement.
const WARM_UP: u32 = 20_000;
/// Many flows.
const MANY: u32 = 50_000;
/// netagent's part of what nftables adds to a bare redirect, with one flow and with many.
const SHARE: f64 = 0.25;
/// The same with many flows.
const SHARE_OF_MANY: f64 = 0.33;
/// From TAP to TAP, beside a bare redirect.
const ACROSS: f64 = 1.15;

/// Of every row.
const NOTES: [&str; 3] = [
    slices::NOTE,
    "of every way a frame of each flow was read and checked: addresses, ports, hardware addresses, TTL, checksums",
    "netagent, nft, iptables and einat translate addresses; redirect, devmap, bridge and mirred change nothing, not the TTL either",
];

/// Of einat and frames for a published port.
const NO_PUBLISHED: &str =
    "it publishes no port: what arrives has to meet what a guest sent before";
/// Of einat and frames between guests.
const ON_UPLINK: &str = "it works on the uplink alone: between guests it is the kernel's route";

/// A comparison.
struct Row {
    id: &'static str,
    title: &'static str,
    /// Of one measurement.
    frames: u32,
    is_quick: bool,
    load: fn(&Variant) -> Option<Load>,
    goal: Goal,
    /// Ways that cannot do it, and why.
    without: &'static [(Kind, &'static str)],
}

/// What netagent is to reach.
#[derive(Clone, Copy)]
enum Goal {
    None,
    /// At most this part of what nftables adds to a redirect.
    Share(f64),
    /// At most so much of a redirect.
    Beside(f64),
    /// Not above nftables.
    Nft,
}

const ROWS: [Row; 9] = [
    Row {
        id: "datapath/64-bytes/1-flow",
        title: "64-byte frames, TAP to uplink, one established flow",
        frames: 100_000,
        is_quick: true,
        load: |variant| up(variant, 1, SHORT),
        goal: Goal::Share(SHARE),
        without: &[],
    },
    Row {
        id: "datapath/64-bytes/256-flows",
        title: "64-byte frames, TAP to uplink, 256 established flows",
        frames: 60_000,
        is_quick: false,
        load: |variant| up(variant, 256, SHORT),
        goal: Goal::None,
        without: &[],
    },
    Row {
        id: "datapath/64-bytes/50000-flows",
        title: "64-byte frames, TAP to uplink, 50,000 established flows",
        frames: 100_000,
        is_quick: true,
        load: |variant| up(variant, MANY, SHORT),
        goal: Goal::Share(SHARE_OF_MANY),
        without: &[],
    },
    Row {
        id: "datapath/1514-bytes/1-flow",
        title: "1,514-byte frames, TAP to uplink, one established flow",
        frames: 60_000,
        is_quick: false,
        load: |variant| up(variant, 1, LONG),
        goal: Goal::None,
        without: &[],
    },
    Row {
        id: "datapath/60-kilobytes/1-flow",
        title: "super-frames of 60,000 bytes (TCP), TAP to uplink, one flow",
        frames: 10_000,
        is_quick: false,
        load: gso::load,
        goal: Goal::Nft,
        without: &[(
            Kind::Devmap,
            "a redirect refuses frames that are longer than the MTU",
        )],
    },
    Row {
        id: "reverse/replies/1-flow",
        title: "64-byte replies, uplink to TAP, one established flow",
        frames: 100_000,
        is_quick: true,
        load: |variant| reverse::load(variant, Opener::Guest, 1),
        goal: Goal::Share(SHARE),
        without: &[],
    },
    Row {
        id: "reverse/replies/50000-flows",
        title: "64-byte replies, uplink to TAP, 50,000 established flows",
        frames: 100_000,
        is_quick: false,
        load: |variant| reverse::load(variant, Opener::Guest, MANY),
        goal: Goal::Share(SHARE_OF_MANY),
        without: &[],
    },
    Row {
        id: "reverse/published/1-flow",
        title: "64-byte frames for a published port, uplink to TAP, one established flow",
        frames: 100_000,
        is_quick: false,
        load: |variant| reverse::load(variant, Opener::World, 1),
        goal: Goal::Share(SHARE),
        without: &[(Kind::Einat, NO_PUBLISHED)],
    },
    Row {
        id: "across/64-bytes/1-flow",
        title: "64-byte frames, TAP of one guest to TAP of another",
        frames: 100_000,
        is_quick: false,
        load: across::load,
        goal: Goal::Beside(ACROSS),
        without: &[(Kind::Einat, ON_UPLINK)],
    },
];

/// Measures all of it.
pub fn run(session: &mut Session) {
    let wanted: &[Kind] = if session.is_quick() {
        &Kind::QUICK
    } else {
        &Kind::ALL
    };
    let (kinds, missing) = Kind::sort(wanted);
    let rows: Vec<&Row> = ROWS
        .iter()
        .filter(|row| row.is_quick || !session.is_quick())
        .collect();
    let mut costs: Vec<Costs> = rows.iter().map(|_| Costs::default()).collect();
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("datapath", rounds * (rows.len() as u32 + 1));
    let mut notes = Vec::new();
    for _ in 0..rounds {
        let prepare = |kind: &Kind| Variant::prepare_as(*kind, OPEN);
        let ways: Vec<Variant> = kinds.iter().map(prepare).collect();
        bar.inc(1);
        for (row, costs) in rows.iter().zip(&mut costs) {
            measure(row, &ways, costs);
            bar.inc(1);
        }
        notes = ways.iter().flat_map(Variant::notes).collect();
    }
    bar.finish_and_clear();
    for (row, costs) in rows.iter().zip(&costs) {
        report(session, row, costs, (&missing, &notes));
    }
}

/// Established flows of UDP from the guest, where the way takes all of them.
pub(crate) fn up(variant: &Variant, flows: u32, payload: usize) -> Option<Load> {
    let mut flows = Flows::udp(&variant.ends, flows, payload);
    let firsts = (0..flows.count()).map(|index| flows.frame(index)[VNET_HEADER_LEN..].to_vec());
    if !insist(variant, firsts) {
        return None;
    }
    path::establish(variant, &mut flows);
    Some(Load::Up(flows))
}

/// Takes a row on all ways in turn.
fn measure(row: &Row, ways: &[Variant], costs: &mut Costs) {
    let mut ready: Vec<(&Variant, Load)> = ways
        .iter()
        .filter(|variant| row.without.iter().all(|(kind, _)| *kind != variant.kind))
        .filter_map(|variant| Some((variant, (row.load)(variant)?)))
        .collect();
    let warm_up = WARM_UP.min(row.frames / 4);
    for (variant, load) in &mut ready {
        load.warm_up(variant, warm_up);
    }
    // The others were warmed up meanwhile.
    for (variant, load) in &mut ready {
        load.touch(variant);
    }
    let frames = row.frames / SLICES;
    let found = in_turn(&mut ready, |(variant, load)| load.measure(variant, frames));
    for ((variant, _), cost) in ready.iter().zip(found) {
        costs.add(variant.kind.name(), cost);
    }
}

fn report(
    session: &mut Session,
    row: &Row,
    costs: &Costs,
    (missing, notes): (&[(Kind, String)], &[String]),
) {
    let of = if matches!(row.goal, Goal::Nft) {
        Rate {
            unit: "Gbit/s",
            of_one_ns: gso::PAYLOAD as f64 * 8.0,
        }
    } else {
        Rate::FRAMES
    };
    let [mut time, rate] = costs.tables((row.id, row.title), of, None);
    let is_measured = |(kind, _): &&(Kind, &str)| missing.iter().all(|(one, _)| one != kind);
    for (kind, reason) in row.without.iter().filter(is_measured) {
        time.add(kind.name(), &Figures::default());
        time.note(format!("{}: {reason}", kind.name()));
    }
    // It was there, and took not every flow in any round.
    let (einat, remark) = (Kind::Einat.name(), Kind::Einat.remark());
    let was_there = notes.iter().any(|note| Some(note.as_str()) == remark);
    if was_there && time.cell(einat, None).is_none() {
        time.add(einat, &Figures::default());
    }
    note_missing(&mut time, missing);
    for note in NOTES {
        time.note(note);
    }
    for note in notes {
        time.note(note);
    }
    session.add(time);
    session.add(rate);
    judge(session, row, costs);
}

fn judge(session: &mut Session, row: &Row, costs: &Costs) {
    let [netagent, redirect, nft] = [Kind::Netagent, Kind::Redirect, Kind::Nft].map(Kind::name);
    let beside = |name| {
        let rounds = costs.rounds([netagent, name]);
        rounds.iter().map(|[own, other]| own / other).collect()
    };
    let (what, figures, target): (&str, Figures, f64) = match row.goal {
        Goal::None => return,
        Goal::Share(target) => {
            let rounds = costs.rounds([netagent, redirect, nft]);
            let share = |[own, redirect, nft]: &[f64; 3]| (own - redirect) / (nft - redirect);
            let what = "(netagent - redirect) / (nft - redirect)";
            (what, rounds.iter().map(share).collect(), target)
        }
        Goal::Beside(target) => ("netagent / redirect", beside(redirect), target),
        Goal::Nft => ("netagent / nft", beside(nft), 1.0),
    };
    if !figures.values().is_empty() {
        let what = format!("{}: {what}", row.id);
        session.goal(&what, figures.median(), (Better::Lower, target));
    }
}
