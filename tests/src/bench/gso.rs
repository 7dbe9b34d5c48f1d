//! Super-frames of 60 KB from a TAP to the uplink.

use netagent_common::net::tcp_flag::ACK;

use crate::bench::figures::{Figures, print_target};
use crate::bench::path::{self, Flows};
use crate::bench::variant::{Kind, Variant};
use crate::frame::{Frame, Segments};
use crate::packet::{self, Segment};
use crate::world::server_v4;

const FRAMES: u32 = 20_000;
const PAYLOAD: usize = 60_000;
const SEGMENT_SIZE: u16 = 1_400;

/// Measures all ways, interleaved, and prints the figures.
pub fn run(rounds: u32) {
    println!("\nsuper-frames of {PAYLOAD} bytes (TCP), TAP to veth uplink, ns for each:");
    let mut ways: Vec<(Variant, Flows, Figures)> = Kind::ALL.into_iter().map(prepare).collect();
    for _ in 0..rounds {
        for (variant, flows, figures) in &mut ways {
            figures.add(path::measure(variant, flows, FRAMES));
        }
    }
    for (variant, _, figures) in &ways {
        let gigabits = PAYLOAD as f64 * 8.0 / figures.median();
        println!(
            "  {:18} {figures}  {gigabits:.1} Gbit/s  [{}]",
            variant.kind.name(),
            figures.raw()
        );
    }
    let median = |kind: Kind| {
        let way = ways.iter().find(|(variant, ..)| variant.kind == kind);
        way.expect("all kinds were measured").2.median()
    };
    print_target(
        "time, A / N",
        median(Kind::Netagent) / median(Kind::Nft),
        ('<', 1.0),
    );
}

fn prepare(kind: Kind) -> (Variant, Flows, Figures) {
    let variant = Variant::prepare(kind);
    let segment = Segment {
        src_port: 5_000,
        dst_port: 5_001,
        sequence: 1,
        acknowledgement: 1,
        flags: ACK,
    };
    let bytes = packet::tcp(
        &variant.ends.to(server_v4(0)),
        segment,
        &vec![0x5a; PAYLOAD],
    );
    let mut flows = Flows::one(&Frame::super_frame(bytes, Segments::TcpV4, SEGMENT_SIZE));
    path::establish(&variant, &mut flows);
    path::measure(&variant, &mut flows, FRAMES / 4);
    (variant, flows, Figures::default())
}
