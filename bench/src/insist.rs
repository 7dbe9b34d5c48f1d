//! First frames of flows that have to be sent again.
//!
//! einat wants a timer of the kernel for each flow, and drops the frame where it gets none: Linux 6.18 refuses some of
//! them at any time (ENOMEM), and most where many are wanted at once. Guests send again, and so does this.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::Duration;

use crate::variant::{Kind, Variant};
use netagent_tests::deadline::Deadline;
use netagent_tests::packet::Packet;
use netagent_tests::raw::Raw;

/// Longest time for all of them.
const ENOUGH: Duration = Duration::from_secs(5);
/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(5);
/// Frames that are sent before what arrived is read.
const BATCH: usize = 128;

/// Of one flow: who is asked, from which port and at which.
type Flow = (IpAddr, (u16, u16));

/// Sends frames of IPv4 or IPv6, each of another flow, until each has arrived; where it is not einat that carries them,
/// the first one will. Says whether they have, after a time that is enough for most.
///
/// # Panics
/// Where one arrives that is not as it should be.
#[must_use]
pub fn insist(variant: &Variant, frames: impl IntoIterator<Item = Vec<u8>>) -> bool {
    if variant.kind != Kind::Einat {
        return true;
    }
    let sent = frames.into_iter().map(|bytes| (flow_of(&bytes), bytes));
    let mut left: BTreeMap<Flow, Vec<u8>> = sent.collect();
    let (wire, deadline) = (variant.wire(), Deadline::after(ENOUGH));
    while !left.is_empty() {
        if deadline.remaining().is_none() {
            return false;
        }
        let frames: Vec<Vec<u8>> = left.values().cloned().collect();
        for batch in frames.chunks(BATCH) {
            for bytes in batch {
                variant.tap.send_bytes(bytes.clone());
            }
            read(variant, &wire, &mut left);
        }
        // A kernel that is asked on and on has none to give.
        sleep(PAUSE);
    }
    true
}

/// Checks what arrived, and strikes it off.
fn read(variant: &Variant, wire: &Raw, left: &mut BTreeMap<Flow, Vec<u8>>) {
    while let Some(received) = wire.receive_now() {
        let bytes = received.frame.completed();
        // Neighbour discovery of the host falls in between.
        if Packet::parse(&bytes).is_some_and(|packet| matches!(packet.protocol, 6 | 17)) {
            let packet = variant.check(&bytes);
            left.remove(&(packet.ends.dst, packet.ports));
        }
    }
}

/// einat keeps a port that is free.
fn flow_of(bytes: &[u8]) -> Flow {
    let packet = Packet::parse(bytes).expect("a frame of ours");
    (packet.ends.dst, packet.ports)
}
