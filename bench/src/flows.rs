//! New flows: every frame is the first of its flow, in both families.
//!
//! Each round of each way has namespaces of its own, so that no table holds what an earlier round left.

use crate::figures::Figures;
use crate::frames::Frames;
use crate::path::Cost;
use crate::report::{Better, Table};
use crate::session::Session;
use crate::variant::{Kind, Variant};
use crate::ways::Time;
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
const RATE: f64 = 2.0;
/// Rounds of a full run.
const ROUNDS: u32 = 7;

const KINDS: [Kind; 3] = [Kind::Netagent, Kind::Redirect, Kind::Nft];

/// Measures the ways, interleaved.
pub fn run(session: &mut Session) {
    for is_v4 in [true, false] {
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        let title = format!("new flows of {family}, {FLOWS} of them, guest to uplink");
        let bar = session.bar(&title, session.rounds(ROUNDS));
        let mut figures = KINDS.map(|kind| (kind, <[Figures; 2]>::default()));
        for _ in 0..session.rounds(ROUNDS) {
            for (kind, [wall, processor]) in &mut figures {
                let cost = open_all(&Variant::prepare(*kind), is_v4);
                wall.add(cost.wall);
                processor.add(cost.processor);
            }
            bar.inc(1);
        }
        let id = format!("flows/{}", family.to_lowercase());
        for (index, time) in Time::ALL.into_iter().enumerate() {
            let title = format!("{title}, {}", time.name());
            let mut table = Table::new(&time.id(&id), &title, ("ns", Better::Lower));
            for (kind, figures) in &figures {
                table.add(kind.name(), &figures[index]);
            }
            session.add(table);
            let [(_, netagent), _, (_, nft)] = &figures;
            session.goal(
                &format!(
                    "new flows a second of {family}: netagent / nft, {}",
                    time.name()
                ),
                nft[index].median() / netagent[index].median(),
                (Better::Higher, RATE),
            );
        }
    }
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
