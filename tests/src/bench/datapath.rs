//! 64-byte frames from a TAP to the uplink, with one established flow and with 50,000.

use crate::bench::figures::{Figures, print_target};
use crate::bench::path::{self, Flows};
use crate::bench::variant::{Kind, Variant};

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
        let mut ways: Vec<(Variant, Flows, Figures)> = Kind::ALL
            .into_iter()
            .map(|kind| prepare(kind, flow_count))
            .collect();
        for _ in 0..rounds {
            for (variant, flows, figures) in &mut ways {
                figures.add(path::measure(variant, flows, FRAMES));
            }
        }
        for (variant, _, figures) in &ways {
            let millions = 1e3 / figures.median();
            println!(
                "  {:18} {figures}  {millions:.3} Mpps  [{}]",
                variant.kind.name(),
                figures.raw()
            );
        }
        let median = |kind: Kind| {
            let way = ways.iter().find(|(variant, ..)| variant.kind == kind);
            way.expect("all kinds were measured").2.median()
        };
        let (netagent, redirect, nft) = (
            median(Kind::Netagent),
            median(Kind::Redirect),
            median(Kind::Nft),
        );
        print_target(
            "(A - R) / (N - R)",
            (netagent - redirect) / (nft - redirect),
            ('<', share),
        );
        print_target("packets per second, A / N", nft / netagent, ('>', 1.5));
    }
}

fn prepare(kind: Kind, flow_count: u32) -> (Variant, Flows, Figures) {
    let variant = Variant::prepare(kind);
    let mut flows = Flows::udp(&variant.ends, flow_count);
    path::establish(&variant, &mut flows);
    path::measure(&variant, &mut flows, WARM_UP);
    (variant, flows, Figures::default())
}
