//! What a host spends on frames that a VMM hands it at a steady pace: from the write to the TAP until the frame has left,
//! without guests, VMMs and servers, whose part is the same for all ways.

use std::time::Duration;

use netagent_tests::deadline::now;

use crate::datapath;
use crate::figures::Figures;
use crate::gso;
use crate::load::Load;
use crate::path::LONG;
use crate::peers::note_missing;
use crate::report::{Better, Table};
use crate::session::Session;
use crate::variant::{Kind, OPEN, Variant};

const ROUNDS: u32 = 7;
/// How often frames are handed over.
const EVERY: Duration = Duration::from_millis(1);
/// How often they are in a measurement.
const TIMES: u32 = 400;
/// 1 Gbit/s, bits each time.
const BITS: f64 = 1e6;

/// What frames a table is about.
struct Frames {
    id: &'static str,
    title: &'static str,
    /// Bits of one, as they count for the pace.
    bits: f64,
    load: fn(&Variant) -> Option<Load>,
    /// netagent's most, beside nftables.
    most: f64,
}

const TABLES: [Frames; 2] = [
    Frames {
        id: "cpu/host/mtu",
        title: "Processor time of the host alone, guest to uplink at 1 Gbit/s, frames of 1,514 bytes",
        bits: 1_514.0 * 8.0,
        load: |variant| datapath::up(variant, 1, LONG),
        most: 0.8,
    },
    Frames {
        id: "cpu/host/gso",
        title: "Processor time of the host alone, guest to uplink at 1 Gbit/s, super-frames",
        bits: gso::PAYLOAD as f64 * 8.0,
        load: gso::load,
        most: 1.0,
    },
];

/// Measures every way in turn, each round in new namespaces.
pub(super) fn run(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let is_wanted = |kind: &Kind| *kind != Kind::Devmap;
    let wanted: Vec<Kind> = Kind::ALL.into_iter().filter(is_wanted).collect();
    let (kinds, missing) = Kind::sort(&wanted);
    let mut found: [Vec<Figures>; 2] = [(); 2].map(|()| vec![Figures::default(); kinds.len()]);
    let bar = session.bar("processor time of the host", rounds);
    for _ in 0..rounds {
        let prepare = |kind: &Kind| Variant::prepare_as(*kind, OPEN);
        let ways: Vec<Variant> = kinds.iter().map(prepare).collect();
        for (frames, found) in TABLES.iter().zip(&mut found) {
            for (variant, figures) in ways.iter().zip(found) {
                if let Some(figure) = measure(variant, frames) {
                    figures.add(figure);
                }
            }
        }
        bar.inc(1);
    }
    for (frames, found) in TABLES.iter().zip(&found) {
        report(session, frames, (&kinds, found), &missing);
    }
}

/// Milliseconds for each Gbit, where the way takes the flow.
fn measure(variant: &Variant, frames: &Frames) -> Option<f64> {
    let mut load = (frames.load)(variant)?;
    load.warm_up(variant, 1_000);
    let (began, mut written, mut processor_ns) = (now(), 0, 0.0);
    for time in 1..=TIMES {
        let due = (f64::from(time) * BITS / frames.bits) as u32;
        let count = due - written;
        if count > 0 {
            processor_ns += load.measure(variant, count).processor * f64::from(count);
            written = due;
        }
        std::thread::sleep((EVERY * time).saturating_sub(began.elapsed()));
    }
    Some(processor_ns / 1e6 / (f64::from(written) * frames.bits / 1e9))
}

fn report(
    session: &mut Session,
    frames: &Frames,
    (kinds, found): (&[Kind], &[Figures]),
    missing: &[(Kind, String)],
) {
    let mut table = Table::new(frames.id, frames.title, ("ms/Gbit", Better::Lower));
    for (kind, figures) in kinds.iter().zip(found) {
        table.add(kind.name(), figures);
    }
    table.note("From the VMM's write to the TAP until the frame is on the uplink; frames are handed over once in a millisecond. Guests, VMM and servers are not in it.");
    table.note("tcx redirect, kernel route, linux bridge and u32 + mirred: no NAT and no filter.");
    for remark in kinds.iter().filter_map(|kind| kind.remark()) {
        table.note(remark);
    }
    note_missing(&mut table, missing);
    session.add(table);
    let of = |kind| kinds.iter().position(|one| *one == kind);
    if let (Some(own), Some(nft)) = (of(Kind::Netagent), of(Kind::Nft)) {
        let rounds = found[own].values().iter().zip(found[nft].values());
        let ratios: Figures = rounds.map(|(own, nft)| own / nft).collect();
        let what = format!("{}, beside nft", frames.title);
        session.goal(&what, ratios.median(), (Better::Lower, frames.most));
    }
}
