//! 64-byte frames from the uplink to a TAP, replies and those for a published port, with one established flow and with
//! 50,000.
//!
//! Nobody reads the TAP: its queue is full, and each frame that reaches it ends there, at the same price for
//! every way. The frames before were read and checked.

use std::net::{IpAddr, Ipv4Addr};

use nix::unistd::write;

use crate::frames::Frames;
use crate::path::Cost;
use crate::report::Better;
use crate::session::Session;
use crate::variant::{CONFIGURATION, Direction, GUEST_PORT, Kind, PUBLISHED, Variant};
use crate::ways::{Time, Ways};
use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::packet::{self, Ends, Packet};
use netagent_tests::raw::Raw;
use netagent_tests::world::{FAR_END, SERVERS, host_address, server_v4};

/// Frames of one measurement: nearly a second.
const FRAMES: u32 = 800_000;
/// Frames before it; they fill the queue of the TAP.
const WARM_UP: u32 = 100_000;
/// Many flows.
const MANY: u32 = 50_000;
/// Flows that are opened before the frames of their replies are checked: fewer than the queue of a TAP holds.
const BATCH: u32 = 128;
/// Port of the servers.
const PORT: u16 = 53;
/// Payload that makes a UDP frame 64 bytes long.
const PAYLOAD: [u8; 22] = [0x5a; 22];
/// Rounds of a full run.
const ROUNDS: u32 = 7;

/// Who opened the flows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opener {
    Guest,
    World,
}

/// The world's end, and what it sends.
struct Arriving {
    wire: Raw,
    frames: Frames,
}

/// Measures all ways, interleaved.
pub fn run(session: &mut Session) {
    for opener in [Opener::Guest, Opener::World] {
        for (flow_count, name, share) in [(1, "1-flow", 0.25), (MANY, "50000-flows", 0.33)] {
            run_one(session, opener, (flow_count, name, share));
        }
    }
}

fn run_one(session: &mut Session, opener: Opener, (flow_count, name, share): (u32, &str, f64)) {
    let (what, id) = match opener {
        Opener::Guest => ("replies", "replies"),
        Opener::World => ("frames for a published port", "published"),
    };
    let title = format!("64-byte {what}, uplink to guest, {flow_count} established flows");
    let bar = session.bar(&title, session.rounds(ROUNDS));
    let mut ways = Ways::prepare(|kind| {
        let variant = Variant::prepare_as(kind, Direction::ToVm, CONFIGURATION);
        let mut arriving = establish(&variant, opener, flow_count);
        arriving.frames.write(arriving.wire.as_fd(), (0, WARM_UP));
        (variant, arriving)
    });
    let frames = session.count(FRAMES);
    ways.measure(&bar, |variant, arriving| measure(variant, arriving, frames));
    for table in ways.tables(&format!("reverse/{id}/{name}"), &title) {
        session.add(table);
    }
    for time in Time::ALL {
        let [netagent, redirect, nft] =
            [Kind::Netagent, Kind::Redirect, Kind::Nft].map(|kind| ways.median(kind, time));
        let added = (netagent - redirect) / (nft - redirect);
        let name = time.name();
        session.goal(
            &format!("{title}: (netagent - tcx redirect) / (nft - tcx redirect), {name}"),
            added,
            (Better::Lower, share),
        );
    }
}

/// The other ways were measured meanwhile: at first each flow gets a frame, so that what a way does once in some seconds
/// weighs as much as in traffic that goes on.
fn measure(variant: &Variant, arriving: &mut Arriving, count: u32) -> Cost {
    let each = arriving.frames.count() as u32;
    arriving.frames.write(arriving.wire.as_fd(), (0, each));
    let before = variant.overflowed();
    let cost = arriving.frames.write(arriving.wire.as_fd(), (0, count));
    let arrived = variant.overflowed() - before;
    assert!(
        (u64::from(count)..u64::from(count) + 16).contains(&arrived),
        "{}: {arrived} of {count} frames reached the TAP",
        variant.kind.name()
    );
    cost
}

/// Opens the flows, and checks a frame of each at the guest; and at the world, where the way keeps flows.
fn establish(variant: &Variant, opener: Opener, count: u32) -> Arriving {
    let world = &variant.world;
    let wire = Raw::open(&world.outside, FAR_END);
    let macs = (world.router_mac(), world.uplink_mac());
    let mut frames = Frames::default();
    for first in (0..count).step_by(BATCH as usize) {
        let batch = first..count.min(first + BATCH);
        for number in batch.clone() {
            let frame = if opener == Opener::Guest && variant.keeps_flows() {
                let from_guest = from_guest(variant, opener, number);
                variant.tap.send_bytes(from_guest);
                let asked = seen(variant, &wire);
                let ends = Ends {
                    ttl: variant.ends.ttl,
                    ..asked.ends.reversed()
                };
                packet::udp(&ends, (asked.ports.1, asked.ports.0), &PAYLOAD)
            } else {
                from_world(variant, (opener, macs), number)
            };
            assert_eq!(frame.len(), 64, "the figures are about 64-byte frames");
            frames.push(frame);
        }
        for number in batch.clone() {
            write(wire.as_fd(), frames.get(number as usize)).expect("the cable takes frames");
        }
        for number in batch.clone() {
            check_arrived(variant, opener, number);
        }
        if opener == Opener::World && variant.keeps_flows() {
            for number in batch {
                variant.tap.send_bytes(from_guest(variant, opener, number));
                let answer = Packet::parse(&seen_as_it_is(&wire)).expect("it is one");
                assert_eq!(answer.ends.src, host_address(true));
                assert_eq!(answer.ports, (PUBLISHED, ports(opener, number).1));
            }
        }
    }
    Arriving { wire, frames }
}

/// The next datagram that reaches the world.
fn seen_as_it_is(wire: &Raw) -> Vec<u8> {
    wire.receive_where(Deadline::after(SOON), |received| {
        let bytes = received.frame.completed();
        packet::transport(&bytes).filter(|transport| transport.protocol == 17)?;
        Some(bytes)
    })
}

fn seen(variant: &Variant, wire: &Raw) -> Packet {
    variant.check(&seen_as_it_is(wire))
}

const fn server(number: u32) -> Ipv4Addr {
    server_v4((number % SERVERS as u32) as u8)
}

/// The guest's port of a flow, and the world's.
const fn ports(opener: Opener, number: u32) -> (u16, u16) {
    let own = 1_024 + (number / SERVERS as u32) as u16;
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

/// What the world sends: to the published port, or, where nobody translates, to the guest itself.
fn from_world(
    variant: &Variant,
    (opener, (src_mac, dst_mac)): (Opener, ([u8; 6], [u8; 6])),
    number: u32,
) -> Vec<u8> {
    let (guest_port, port) = ports(opener, number);
    let (dst, dst_port) = if variant.keeps_flows() {
        (host_address(true), PUBLISHED)
    } else {
        (variant.ends.src, guest_port)
    };
    let ends = Ends {
        src_mac,
        dst_mac,
        src: server(number).into(),
        dst,
        ttl: variant.ends.ttl,
    };
    packet::udp(&ends, (port, dst_port), &PAYLOAD)
}

fn check_arrived(variant: &Variant, opener: Opener, number: u32) {
    let bytes = variant.tap.receive_where(Deadline::after(SOON), |frame| {
        let bytes = frame.completed();
        let transport = packet::transport(&bytes)?;
        (transport.protocol == 17).then_some(bytes)
    });
    packet::assert_checksums(&bytes);
    let packet = Packet::parse(&bytes).expect("checked above");
    let name = variant.kind.name();
    let (guest_port, port) = ports(opener, number);
    assert_eq!(packet.ends.src, IpAddr::V4(server(number)), "{name}");
    assert_eq!(packet.ends.dst, variant.ends.src, "{name}");
    assert_eq!(packet.ports, (port, guest_port), "{name}");
    assert_eq!(packet.payload, PAYLOAD, "{name}");
    if variant.kind == Kind::Redirect {
        return;
    }
    assert_eq!(packet.ends.dst_mac, variant.ends.src_mac, "{name}");
    assert_eq!(packet.ends.ttl, 63, "{name}");
}
