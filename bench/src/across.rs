//! 64-byte frames from one guest's TAP to another's.

use crate::frames::Frames;
use crate::load::Load;
use crate::path::SHORT;
use crate::variant::Variant;
use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::packet;

const PORTS: (u16, u16) = (5_000, 9_000);
const PAYLOAD: [u8; SHORT] = [0x5a; SHORT];

/// One flow of them; its first frame is checked.
#[must_use]
pub fn load(variant: &Variant) -> Option<Load> {
    variant.drain();
    let bytes = packet::udp(&variant.between, PORTS, &PAYLOAD);
    assert_eq!(bytes.len(), 64, "the figures are about 64-byte frames");
    variant.other.send_bytes(bytes.clone());
    let arrived = variant.tap.receive_where(Deadline::after(SOON), |frame| {
        let bytes = frame.completed();
        let transport = packet::transport(&bytes)?;
        (transport.protocol == 17).then_some(bytes)
    });
    let packet = variant.check_at_guest(&arrived, &variant.between);
    assert_eq!(
        (packet.ports, packet.payload.as_slice()),
        (PORTS, &PAYLOAD[..])
    );
    Some(Load::Across(Frames::from_iter([bytes])))
}
