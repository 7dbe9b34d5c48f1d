//! 64-byte replies from the uplink to a TAP, with one established flow and with 50,000.
//!
//! Nobody reads the TAP: its queue is full, and each frame that reaches it ends there, at the same price for
//! every way. The frames before were read and checked.

use nix::unistd::write;

use crate::bench::figures::print_target;
use crate::bench::frames::Frames;
use crate::bench::path::Cost;
use crate::bench::variant::{CONFIGURATION, Direction, Kind, Variant};
use crate::bench::ways::{Time, Ways};
use crate::deadline::{Deadline, SOON};
use crate::packet::{self, Ends, Packet};
use crate::raw::Raw;
use crate::world::{FAR_END, SERVERS, server_v4};

/// Frames of one measurement: half a second and more.
const FRAMES: u32 = 400_000;
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
/// Part of netagent's price in what nftables adds to a bare redirect.
const SHARE: f64 = 0.40;

/// The world's end, and what it answers.
struct Replies {
    wire: Raw,
    frames: Frames,
}

/// Measures all ways, interleaved, and prints the figures.
pub fn run(rounds: u32) {
    for flow_count in [1, MANY] {
        println!(
            "\n64-byte replies, veth uplink to TAP, {flow_count} established flows, ns for each frame:"
        );
        let mut ways = Ways::prepare(|kind| {
            let variant = Variant::prepare_as(kind, Direction::ToVm, CONFIGURATION);
            let mut replies = establish(&variant, flow_count);
            replies.frames.write(replies.wire.as_fd(), (0, WARM_UP));
            (variant, replies)
        });
        ways.measure(rounds, measure);
        ways.print(|median| format!("{:.3} Mpps", 1e3 / median));
        for time in Time::ALL {
            let [netagent, redirect, nft] =
                [Kind::Netagent, Kind::Redirect, Kind::Nft].map(|kind| ways.median(kind, time));
            let added = (netagent - redirect) / (nft - redirect);
            let name = time.name();
            print_target(&format!("(A - R) / (N - R), {name}"), added, ('<', SHARE));
        }
    }
}

fn measure(variant: &Variant, replies: &mut Replies) -> Cost {
    let before = variant.overflowed();
    let cost = replies.frames.write(replies.wire.as_fd(), (0, FRAMES));
    let arrived = variant.overflowed() - before;
    assert!(
        (u64::from(FRAMES)..u64::from(FRAMES) + 16).contains(&arrived),
        "{}: {arrived} of {FRAMES} frames reached the TAP",
        variant.kind.name()
    );
    cost
}

/// Opens the flows, and checks a reply of each at the guest.
fn establish(variant: &Variant, count: u32) -> Replies {
    let world = &variant.world;
    let wire = Raw::open(&world.outside, FAR_END);
    let macs = (world.router_mac(), world.uplink_mac());
    let mut frames = Frames::default();
    for first in (0..count).step_by(BATCH as usize) {
        let batch = first..count.min(first + BATCH);
        for number in batch.clone() {
            let question = question(variant, number);
            let reply = if variant.keeps_flows() {
                variant.tap.send_bytes(question);
                let asked = wire.receive_where(Deadline::after(SOON), |received| {
                    let bytes = received.frame.completed();
                    packet::transport(&bytes).filter(|transport| transport.protocol == 17)?;
                    Some(variant.check(&bytes))
                });
                let ends = Ends {
                    ttl: variant.ends.ttl,
                    ..asked.ends.reversed()
                };
                packet::udp(&ends, (asked.ports.1, asked.ports.0), &PAYLOAD)
            } else {
                unasked(macs, &question)
            };
            assert_eq!(reply.len(), 64, "the figures are about 64-byte frames");
            frames.push(reply);
        }
        for number in batch.clone() {
            write(wire.as_fd(), frames.get(number as usize)).expect("the cable takes frames");
        }
        for number in batch {
            check_reply(variant, number);
        }
    }
    Replies { wire, frames }
}

/// What the guest sends to open a flow.
fn question(variant: &Variant, number: u32) -> Vec<u8> {
    let server = server_v4((number % u32::from(SERVERS)) as u8);
    let ports = (guest_port(number), PORT);
    packet::udp(&variant.ends.to(server), ports, &PAYLOAD)
}

const fn guest_port(number: u32) -> u16 {
    1_024 + (number / SERVERS as u32) as u16
}

/// The answer of a world that sees the guest's own address.
fn unasked((src_mac, dst_mac): ([u8; 6], [u8; 6]), question: &[u8]) -> Vec<u8> {
    let question = Packet::parse(question).expect("made above");
    let ends = Ends {
        src_mac,
        dst_mac,
        ..question.ends.reversed()
    };
    let ports = (question.ports.1, question.ports.0);
    packet::udp(&ends, ports, &PAYLOAD)
}

fn check_reply(variant: &Variant, number: u32) {
    let bytes = variant.tap.receive_where(Deadline::after(SOON), |frame| {
        let bytes = frame.completed();
        let transport = packet::transport(&bytes)?;
        (transport.protocol == 17).then_some(bytes)
    });
    packet::assert_checksums(&bytes);
    let packet = Packet::parse(&bytes).expect("checked above");
    let name = variant.kind.name();
    assert_eq!(packet.ends.dst, variant.ends.src, "{name}");
    assert_eq!(packet.ports, (PORT, guest_port(number)), "{name}");
    assert_eq!(packet.payload, PAYLOAD, "{name}");
    if variant.kind == Kind::Redirect {
        return;
    }
    assert_eq!(packet.ends.dst_mac, variant.ends.src_mac, "{name}");
    assert_eq!(packet.ends.ttl, 63, "{name}");
}
