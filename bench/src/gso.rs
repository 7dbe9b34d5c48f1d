//! Super-frames of 60 KB from a TAP to the uplink.

use netagent_common::net::tcp_flag::ACK;

use crate::figures::print_target;
use crate::path::{self, Flows};
use crate::variant::{Kind, Variant};
use crate::ways::{Time, Ways};
use netagent_tests::frame::{Frame, Segments};
use netagent_tests::packet::{self, Segment};
use netagent_tests::world::server_v4;

const FRAMES: u32 = 20_000;
const PAYLOAD: usize = 60_000;
const SEGMENT_SIZE: u16 = 1_400;

/// Measures all ways, interleaved, and prints the figures.
pub fn run(rounds: u32) {
    println!("\nsuper-frames of {PAYLOAD} bytes (TCP), TAP to veth uplink, ns for each:");
    let mut ways = Ways::prepare(|kind| {
        let variant = Variant::prepare(kind);
        let mut flow = flow(&variant);
        path::establish(&variant, &mut flow);
        path::measure(&variant, &mut flow, FRAMES / 4);
        (variant, flow)
    });
    ways.measure(rounds, |variant, flow| path::measure(variant, flow, FRAMES));
    ways.print(|median| format!("{:.1} Gbit/s", PAYLOAD as f64 * 8.0 / median));
    for time in Time::ALL {
        let [netagent, nft] = [Kind::Netagent, Kind::Nft].map(|kind| ways.median(kind, time));
        print_target(
            &format!("A / N, {}", time.name()),
            netagent / nft,
            ('<', 1.0),
        );
    }
}

fn flow(variant: &Variant) -> Flows {
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
    Flows::one(&Frame::super_frame(bytes, Segments::TcpV4, SEGMENT_SIZE))
}
