//! Super-frames of 60 KB from a TAP to the uplink.

use netagent_common::net::tcp_flag::{ACK, SYN};

use crate::insist::insist;
use crate::load::Load;
use crate::path::{self, Flows};
use crate::variant::Variant;
use netagent_tests::frame::{Frame, Segments};
use netagent_tests::packet::{self, Segment};
use netagent_tests::world::server_v4;

/// TCP payload of each.
pub const PAYLOAD: usize = 60_000;
const SEGMENT_SIZE: u16 = 1_400;

/// One flow of them, where the way takes it.
#[must_use]
pub fn load(variant: &Variant) -> Option<Load> {
    let ends = variant.ends.to(server_v4(0));
    let segment = Segment {
        src_port: 5_000,
        dst_port: 5_001,
        sequence: 1,
        acknowledgement: 1,
        flags: ACK,
    };
    // einat knows no connection that it did not see from the start.
    let opening = Segment {
        sequence: 0,
        acknowledgement: 0,
        flags: SYN,
        ..segment
    };
    if !insist(variant, [packet::tcp(&ends, opening, &[])]) {
        return None;
    }
    let bytes = packet::tcp(&ends, segment, &vec![0x5a; PAYLOAD]);
    let frame = Frame::super_frame(bytes, Segments::TcpV4, SEGMENT_SIZE);
    let mut flow = Flows::one(&frame);
    path::establish(variant, &mut flow);
    Some(Load::Up(flow))
}
