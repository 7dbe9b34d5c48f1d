//! New flows: every frame is the first of its flow, in both families.
//!
//! Each round of each way has namespaces of its own, so that no table holds what an earlier round left.

use crate::costs::{Costs, Rate};
use crate::figures::Figures;
use crate::frames::Frames;
use crate::insist::insist;
use crate::path::{Cost, STRAY};
use crate::peers::note_missing;
use crate::report::Better;
use crate::session::Session;
use crate::variant::{Kind, Variant};
use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::packet;
use netagent_tests::world::{SERVERS, server_v4, server_v6};

/// Rounds.
const ROUNDS: u32 = 7;
/// Flows of one measurement.
pub const FLOWS: u32 = 100_000;
/// Flows before it.
const WARM_UP: u32 = 10_000;
/// Flows whose first frame is read and checked.
const CHECKED: u32 = 100;
/// Ports of each server that flows lead to.
const PORTS: u32 = 16;
const PAYLOAD: [u8; 22] = [0x5a; 22];
/// New flows of netagent for each one of nftables.
const RATE: f64 = 2.0;

/// Those of a first impression.
const QUICK: usize = 3;

const KINDS: [Kind; 6] = [
    Kind::Netagent,
    Kind::Redirect,
    Kind::Nft,
    Kind::IptablesNft,
    Kind::IptablesLegacy,
    Kind::Einat,
];

/// Measures the ways, interleaved.
pub fn run(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let families: &[bool] = if session.is_quick() {
        &[true]
    } else {
        &[true, false]
    };
    let wanted = if session.is_quick() {
        &KINDS[..QUICK]
    } else {
        &KINDS[..]
    };
    let (kinds, missing) = Kind::sort(wanted);
    let count = session.count(FLOWS);
    let bar = session.bar("flows", rounds * (kinds.len() * families.len()) as u32);
    for is_v4 in families {
        let (mut costs, mut refused) = (Costs::default(), None);
        let (kinds, mut missing) = of_family(*is_v4, (&kinds, &missing));
        for _ in 0..rounds {
            for kind in &kinds {
                let variant = Variant::prepare(*kind);
                match open(&variant, *is_v4, count) {
                    Ok(cost) => costs.add(kind.name(), cost),
                    // It wants a timer of the kernel for each, and not every kernel has them as fast.
                    Err(opened) if *kind == Kind::Einat => refused = Some(opened),
                    Err(opened) => panic!("{}: {}", kind.name(), complaint(opened, count)),
                }
                bar.inc(1);
            }
        }
        if let Some(opened) = refused {
            costs.forget(Kind::Einat.name());
            missing.push((Kind::Einat, complaint(opened, count)));
        }
        let remarks: Vec<&str> = kinds.iter().filter_map(|kind| kind.remark()).collect();
        report(session, (*is_v4, count), &costs, (&missing, &remarks));
    }
    bar.finish_and_clear();
}

/// Those that carry a family, and why the others do not.
fn of_family(
    is_v4: bool,
    (kinds, missing): (&[Kind], &[(Kind, String)]),
) -> (Vec<Kind>, Vec<(Kind, String)>) {
    let (kinds, others): (Vec<Kind>, Vec<Kind>) =
        kinds.iter().partition(|kind| is_v4 || kind.has_v6());
    let mut missing = missing.to_vec();
    missing.extend(
        others
            .iter()
            .map(|kind| (*kind, "built without IPv6".to_owned())),
    );
    (kinds, missing)
}

fn report(
    session: &mut Session,
    (is_v4, count): (bool, u32),
    costs: &Costs,
    (missing, remarks): (&[(Kind, String)], &[&str]),
) {
    let family = if is_v4 { "IPv4" } else { "IPv6" };
    let id = format!("flows/{}", family.to_lowercase());
    let title = format!("new flows of {family}, TAP to uplink");
    let [mut time, rate] = costs.tables((&id, &title), Rate::FLOWS, None);
    time.note(format!(
        "each of {count} frames is of another flow; those of {CHECKED} flows were read and checked, the others counted"
    ));
    time.note("tcx redirect keeps no flows: it is the limit");
    for remark in remarks {
        time.note(*remark);
    }
    note_missing(&mut time, missing);
    session.add(time);
    session.add(rate);
    let rounds = costs.rounds([Kind::Netagent.name(), Kind::Nft.name()]);
    let ratios: Figures = rounds.iter().map(|[own, nft]| nft / own).collect();
    if !ratios.values().is_empty() {
        let what = format!("new flows of {family}, netagent / nft");
        session.goal(&what, ratios.median(), (Better::Higher, RATE));
    }
}

/// Opens so many flows, and some before them, on a way that has none yet, and says what each took.
///
/// # Panics
/// Where not every one is opened.
pub fn open_all(variant: &Variant, is_v4: bool, count: u32) -> Cost {
    let name = variant.kind.name();
    open(variant, is_v4, count)
        .unwrap_or_else(|opened| panic!("{name}: {}", complaint(opened, count)))
}

fn complaint(opened: u64, count: u32) -> String {
    format!("{opened} of {count} flows were opened, frames of the others were dropped")
}

/// The same; or how many were opened, where not every one was.
fn open(variant: &Variant, is_v4: bool, count: u32) -> Result<Cost, u64> {
    if !check(variant, is_v4) {
        return Err(0);
    }
    let mut frames: Frames = (CHECKED..CHECKED + WARM_UP + count)
        .map(|number| first_frame(variant, is_v4, number))
        .collect();
    let tap = variant.tap.file();
    frames.write(tap, (0, WARM_UP));
    let before = variant.arrived();
    let cost = frames.write(tap, (0, count));
    let arrived = variant.arrived() - before;
    let is_every_one = (u64::from(count)..u64::from(count) + STRAY).contains(&arrived);
    is_every_one.then_some(cost).ok_or(arrived)
}

/// Frames arrive as they should, where the way takes their flows.
fn check(variant: &Variant, is_v4: bool) -> bool {
    let firsts = (0..CHECKED).map(|number| first_frame(variant, is_v4, number));
    if !insist(variant, firsts) {
        return false;
    }
    let wire = variant.wire();
    for number in 0..CHECKED {
        variant.tap.send_bytes(first_frame(variant, is_v4, number));
        wire.receive_where(Deadline::after(SOON), |received| {
            let bytes = received.frame.completed();
            packet::transport(&bytes).filter(|transport| transport.protocol == 17)?;
            Some(variant.check(&bytes))
        });
    }
    true
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
