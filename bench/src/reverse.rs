//! 64-byte frames from the uplink to a TAP: replies, and those for a published port.

use std::net::Ipv4Addr;

use nix::unistd::write;

use crate::frames::Frames;
use crate::insist::insist;
use crate::load::Load;
use crate::path::SHORT;
use crate::variant::{GUEST_PORT, PUBLISHED, Variant};
use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::packet::{self, Ends, Packet};
use netagent_tests::raw::Raw;
use netagent_tests::world::{SERVERS, host_address, server_v4};

/// Flows that are opened before the frames of their replies are checked: fewer than the queue of a TAP holds.
const BATCH: u32 = 128;
/// Port of the servers: another one than where frames from the guest lead, so that each flow finds a free port soon.
const PORT: u16 = 9_100;
const PAYLOAD: [u8; SHORT] = [0x5a; SHORT];

/// Who opens the flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// The guest: what comes are replies.
    Guest,
    /// The world: what comes is for a published port.
    World,
}

/// Opens the flows, and checks a frame of each at the guest; and at the world, where the way keeps flows.
/// Nothing comes of it where the way refuses some.
///
/// # Panics
/// Where a frame does not arrive, or not as it should.
#[must_use]
pub fn load(variant: &Variant, opener: Opener, count: u32) -> Option<Load> {
    variant.drain();
    let firsts = (0..count).map(|number| from_guest(variant, opener, number));
    if !insist(variant, firsts) {
        return None;
    }
    let wire = variant.wire();
    let mut frames = Frames::default();
    for first in (0..count).step_by(BATCH as usize) {
        let batch = first..count.min(first + BATCH);
        if opener == Opener::Guest && variant.keeps_flows() {
            for number in batch.clone() {
                variant.tap.send_bytes(from_guest(variant, opener, number));
            }
            for _ in batch.clone() {
                let asked = variant.check(&seen(&wire));
                let ends = variant.to_guest(asked.ends.dst).to(asked.ends.src);
                frames.push(packet::udp(&ends, (asked.ports.1, asked.ports.0), &PAYLOAD));
            }
        } else {
            for number in batch.clone() {
                frames.push(from_world(variant, opener, number));
            }
        }
        for number in batch.clone() {
            write(wire.as_fd(), frames.get(number as usize)).expect("the cable takes frames");
        }
        for number in batch.clone() {
            check_arrived(variant, opener, number);
        }
        if opener == Opener::World && variant.keeps_flows() {
            for number in batch {
                answer(variant, &wire, number);
            }
        }
    }
    Some(Load::Down(wire, frames))
}

/// The guest answers what came for its published port.
fn answer(variant: &Variant, wire: &Raw, number: u32) {
    let from_guest = from_guest(variant, Opener::World, number);
    variant.tap.send_bytes(from_guest);
    let answer = Packet::parse(&seen(wire)).expect("it is one");
    let name = variant.kind.name();
    assert_eq!(answer.ends.src, host_address(true), "{name}");
    let expected = (PUBLISHED, ports(Opener::World, number).1);
    assert_eq!(answer.ports, expected, "{name}");
}

/// The next datagram that reaches the world.
fn seen(wire: &Raw) -> Vec<u8> {
    wire.receive_where(Deadline::after(SOON), |received| {
        let bytes = received.frame.completed();
        packet::transport(&bytes).filter(|transport| transport.protocol == 17)?;
        Some(bytes)
    })
}

const fn server(number: u32) -> Ipv4Addr {
    server_v4((number % SERVERS as u32) as u8)
}

/// The guest's port of a flow, and the world's.
const fn ports(opener: Opener, number: u32) -> (u16, u16) {
    // Other flows of the same guest took the ports from 1,024 on.
    let own = 20_000 + (number / SERVERS as u32) as u16;
    match opener {
        Opener::Guest => (own, PORT),
        Opener::World => (GUEST_PORT, own),
    }
}

/// What the guest sends in a flow.
fn from_guest(variant: &Variant, opener: Opener, number: u32) -> Vec<u8> {
    let ends = variant.ends.to(server(number));
    packet::udp(&ends, ports(opener, number), &PAYLOAD)
}

/// Ends of what the world sends: to the published port, or, where nobody translates, to the guest itself.
fn ends_from_world(variant: &Variant, number: u32) -> Ends {
    let ends = variant.to_guest(server(number).into());
    if variant.keeps_flows() {
        ends.to(host_address(true))
    } else {
        ends
    }
}

fn from_world(variant: &Variant, opener: Opener, number: u32) -> Vec<u8> {
    let (guest_port, port) = ports(opener, number);
    let dst_port = if variant.keeps_flows() {
        PUBLISHED
    } else {
        guest_port
    };
    let ends = ends_from_world(variant, number);
    let bytes = packet::udp(&ends, (port, dst_port), &PAYLOAD);
    assert_eq!(bytes.len(), 64, "the figures are about 64-byte frames");
    bytes
}

fn check_arrived(variant: &Variant, opener: Opener, number: u32) {
    let bytes = variant.tap.receive_where(Deadline::after(SOON), |frame| {
        let bytes = frame.completed();
        let transport = packet::transport(&bytes)?;
        (transport.protocol == 17).then_some(bytes)
    });
    let packet = variant.check_at_guest(&bytes, &ends_from_world(variant, number));
    let name = variant.kind.name();
    let (guest_port, port) = ports(opener, number);
    assert_eq!(packet.ports, (port, guest_port), "{name}");
    assert_eq!(packet.payload, PAYLOAD, "{name}");
}
