//! New flows: every frame is the first of its flow, in both families.
//!
//! Each round of each way has namespaces of its own, so that no table holds what an earlier round left.

use crate::figures::{Figures, print_target};
use crate::frames::Frames;
use crate::path::Cost;
use crate::variant::{Kind, Variant};
use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::packet;
use netagent_tests::raw::Raw;
use netagent_tests::world::{FAR_END, SERVERS, server_v4, server_v6};

/// Flows of one measurement.
const FLOWS: u32 = 100_000;
/// Flows before it.
const WARM_UP: u32 = 10_000;
/// Flows whose first frame is read and checked.
const CHECKED: u32 = 100;
/// Ports of each server that flows lead to.
const PORTS: u32 = 16;
const PAYLOAD: [u8; 22] = [0x5a; 22];
/// New flows of netagent for each one of nftables.
const RATE: f64 = 1.5;

const KINDS: [Kind; 3] = [Kind::Netagent, Kind::Redirect, Kind::Nft];

/// Measures the ways, interleaved, and prints the figures.
pub fn run(rounds: u32) {
    for is_v4 in [true, false] {
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        println!("\nnew flows of {family}, {FLOWS} of them, TAP to veth uplink, ns for each:");
        let mut figures = KINDS.map(|kind| (kind, Figures::default(), Figures::default()));
        for _ in 0..rounds {
            for (kind, wall, processor) in &mut figures {
                let cost = measure(*kind, is_v4);
                wall.add(cost.wall);
                processor.add(cost.processor);
            }
        }
        for (kind, wall, processor) in &figures {
            let rate = 1e6 / wall.median();
            println!(
                "  {:18} {wall}  {rate:.0} thousand flows/s  processor {processor}",
                kind.name()
            );
        }
        for (kind, wall, processor) in &figures {
            let (wall, processor) = (wall.raw(), processor.raw());
            println!(
                "    raw, {}: wall {wall}; processor {processor}",
                kind.name()
            );
        }
        let [(_, wall, processor), _, (_, nft_wall, nft_processor)] = &figures;
        for (name, netagent, nft) in [
            ("wall clock", wall, nft_wall),
            ("processor time", processor, nft_processor),
        ] {
            let rate = nft.median() / netagent.median();
            print_target(
                &format!("new flows per second, A / N, {family}, {name}"),
                rate,
                ('>', RATE),
            );
        }
    }
}

fn measure(kind: Kind, is_v4: bool) -> Cost {
    open_all(&Variant::prepare(kind), is_v4)
}

/// Opens as many flows as a measurement has on a way that has none yet, and says what each took.
///
/// # Panics
/// Where not every one is opened.
pub fn open_all(variant: &Variant, is_v4: bool) -> Cost {
    check(variant, is_v4);
    let mut frames: Frames = (CHECKED..CHECKED + WARM_UP + FLOWS)
        .map(|number| first_frame(variant, is_v4, number))
        .collect();
    let tap = variant.tap.file();
    frames.write(tap, (0, WARM_UP));
    let before = variant.arrived();
    let cost = frames.write(tap, (0, FLOWS));
    let arrived = variant.arrived() - before;
    assert!(
        (u64::from(FLOWS)..u64::from(FLOWS) + 16).contains(&arrived),
        "{}: {arrived} of {FLOWS} flows were opened",
        variant.kind.name()
    );
    cost
}

/// Frames arrive as they should.
fn check(variant: &Variant, is_v4: bool) {
    let wire = Raw::open(&variant.world.outside, FAR_END);
    for number in 0..CHECKED {
        variant.tap.send_bytes(first_frame(variant, is_v4, number));
        wire.receive_where(Deadline::after(SOON), |received| {
            let bytes = received.frame.completed();
            packet::transport(&bytes).filter(|transport| transport.protocol == 17)?;
            Some(variant.check(&bytes))
        });
    }
}

/// Ports that a Linux guest takes by itself, towards servers with several ports each.
fn first_frame(variant: &Variant, is_v4: bool, number: u32) -> Vec<u8> {
    let server = (number % u32::from(SERVERS)) as u8;
    let rest = number / u32::from(SERVERS);
    let ports = (
        32_768 + (rest / PORTS) as u16,
        1_000 + (rest % PORTS) as u16,
    );
    if is_v4 {
        packet::udp(&variant.ends.to(server_v4(server)), ports, &PAYLOAD)
    } else {
        packet::udp(&variant.ends_v6.to(server_v6(server)), ports, &PAYLOAD)
    }
}
