//! 64-byte frames from a TAP to the uplink, with one established flow and with 50,000.

use crate::figures::print_target;
use crate::path::{self, Flows};
use crate::variant::{Kind, Variant};
use crate::ways::{Time, Ways};

/// Frames of one measurement: half a second and more.
const FRAMES: u32 = 400_000;
/// Frames before it.
const WARM_UP: u32 = 100_000;
/// Many flows.
const MANY: u32 = 50_000;

/// Measures all ways, interleaved, and prints the figures.
pub fn run(rounds: u32) {
    for (flow_count, share) in [(1, 0.33), (MANY, 0.40)] {
        println!(
            "\n64-byte frames, TAP to veth uplink, {flow_count} established flows, ns for each frame:"
        );
        let mut ways = Ways::prepare(|kind| {
            let variant = Variant::prepare(kind);
            let mut flows = Flows::udp(&variant.ends, flow_count);
            path::establish(&variant, &mut flows);
            path::measure(&variant, &mut flows, WARM_UP);
            (variant, flows)
        });
        ways.measure(rounds, |variant, flows| {
            path::measure(variant, flows, FRAMES)
        });
        ways.print(|median| format!("{:.3} Mpps", 1e3 / median));
        for time in Time::ALL {
            let [netagent, redirect, nft] =
                [Kind::Netagent, Kind::Redirect, Kind::Nft].map(|kind| ways.median(kind, time));
            let name = time.name();
            let added = (netagent - redirect) / (nft - redirect);
            print_target(&format!("(A - R) / (N - R), {name}"), added, ('<', share));
            print_target(
                &format!("packets per second, A / N, {name}"),
                nft / netagent,
                ('>', 1.5),
            );
        }
    }
}
