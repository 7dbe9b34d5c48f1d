//! 64-byte frames from a TAP to the uplink, with one established flow and with 50,000.

use crate::path::{self, Flows};
use crate::report::Better;
use crate::session::Session;
use crate::variant::{Kind, Variant};
use crate::ways::{Time, Ways};

/// Frames of one measurement: half a second and more.
const FRAMES: u32 = 400_000;
/// Frames before it.
const WARM_UP: u32 = 100_000;
/// Rounds of a full run.
const ROUNDS: u32 = 7;
/// Many flows.
const MANY: u32 = 50_000;

/// Measures all ways, interleaved.
pub fn run(session: &mut Session) {
    for (flow_count, name, share) in [(1, "1-flow", 0.25), (MANY, "50000-flows", 0.33)] {
        let title = format!("64-byte frames, guest to uplink, {flow_count} established flows");
        let bar = session.bar(&title, session.rounds(ROUNDS));
        let mut ways = Ways::prepare(|kind| {
            let variant = Variant::prepare(kind);
            let mut flows = Flows::udp(&variant.ends, flow_count);
            path::establish(&variant, &mut flows);
            path::measure(&variant, &mut flows, WARM_UP);
            (variant, flows)
        });
        let frames = session.count(FRAMES);
        ways.measure(&bar, |variant, flows| path::measure(variant, flows, frames));
        for table in ways.tables(&format!("datapath/64-bytes/{name}"), &title) {
            session.add(table);
        }
        for time in Time::ALL {
            let [netagent, redirect, nft] =
                [Kind::Netagent, Kind::Redirect, Kind::Nft].map(|kind| ways.median(kind, time));
            let name = time.name();
            let added = (netagent - redirect) / (nft - redirect);
            session.goal(
                &format!("{title}: (netagent - tcx redirect) / (nft - tcx redirect), {name}"),
                added,
                (Better::Lower, share),
            );
        }
    }
}
