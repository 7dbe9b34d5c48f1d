//! Super-frames of 60 KB from a TAP to the uplink.

use netagent_common::net::tcp_flag::ACK;

use crate::path::{self, Flows};
use crate::report::Better;
use crate::session::Session;
use crate::variant::{Kind, Variant};
use crate::ways::{Time, Ways};
use netagent_tests::frame::{Frame, Segments};
use netagent_tests::packet::{self, Segment};
use netagent_tests::world::server_v4;

/// Rounds of a full run.
const ROUNDS: u32 = 7;
const FRAMES: u32 = 20_000;
const PAYLOAD: usize = 60_000;
const SEGMENT_SIZE: u16 = 1_400;

/// Measures all ways, interleaved.
pub fn run(session: &mut Session) {
    let title = format!("super-frames of {PAYLOAD} bytes (TCP), guest to uplink");
    let bar = session.bar(&title, session.rounds(ROUNDS));
    let mut ways = Ways::prepare(|kind| {
        let variant = Variant::prepare(kind);
        let mut flow = flow(&variant);
        path::establish(&variant, &mut flow);
        path::measure(&variant, &mut flow, FRAMES / 4);
        (variant, flow)
    });
    let frames = session.count(FRAMES);
    ways.measure(&bar, |variant, flow| path::measure(variant, flow, frames));
    for table in ways.tables("gso/60000-bytes/1-flow", &title) {
        session.add(table);
    }
    for time in Time::ALL {
        let [netagent, nft] = [Kind::Netagent, Kind::Nft].map(|kind| ways.median(kind, time));
        session.goal(
            &format!("{title}: netagent / nft, {}", time.name()),
            netagent / nft,
            (Better::Lower, 1.0),
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
