//! New flows: every frame is the first of its flow, in both families.
//!
//! Each round has namespaces of its own, so that no table holds what an earlier round left.

use crate::costs::{Costs, Rate};
use crate::figures::Figures;
use crate::frames::Frames;
use crate::insist::insist;
use crate::path::{Cost, STRAY};
use crate::peers::note_missing;
use crate::report::Better;
use crate::session::Session;
use crate::slices::{self, SLICES, in_turn};
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
    let bar = session.bar("flows", rounds * families.len() as u32);
    for is_v4 in families {
        let (mut costs, mut refused) = (Costs::default(), 0);
        let (kinds, mut missing) = of_family(*is_v4, (&kinds, &missing));
        for _ in 0..rounds {
            let prepare = |kind: &Kind| Opening::prepare(Variant::prepare(*kind), *is_v4, count);
            let mut ways: Vec<Opening> = kinds.iter().map(prepare).collect();
            let found = in_turn(&mut ways, |way| way.open(count / SLICES));
            for (way, cost) in ways.iter().zip(found) {
                costs.add(way.variant.kind.name(), cost);
                refused = refused.max(way.refused.min(count.into()));
            }
            bar.inc(1);
        }
        if refused > 0 {
            costs.forget(Kind::Einat.name());
            let reason =
                format!("it refused up to {refused} of {count} flows, whose frames were dropped");
            missing.push((Kind::Einat, reason));
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
    time.note(slices::NOTE);
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
pub fn open_all(variant: Variant, is_v4: bool, count: u32) -> Cost {
    Opening::prepare(variant, is_v4, count).open(count)
}

/// A way, and the first frames of flows that it does not know.
struct Opening {
    variant: Variant,
    frames: Frames,
    /// Flows that were not opened: of einat, which wants a timer of the kernel for each, and not every kernel has them as
    /// fast.
    refused: u64,
}

impl Opening {
    /// Some flows are opened, of which some are read and checked.
    fn prepare(variant: Variant, is_v4: bool, count: u32) -> Self {
        let takes_them = check(&variant, is_v4);
        let mut frames: Frames = (CHECKED..CHECKED + WARM_UP + count)
            .map(|number| first_frame(&variant, is_v4, number))
            .collect();
        frames.write(variant.tap.file(), (0, WARM_UP));
        Self {
            variant,
            frames,
            refused: if takes_them { 0 } else { count.into() },
        }
    }

    /// Opens the next ones, and says what each took.
    fn open(&mut self, count: u32) -> Cost {
        let before = self.variant.arrived();
        let cost = self.frames.write(self.variant.tap.file(), (0, count));
        let (arrived, count) = (self.variant.arrived() - before, u64::from(count));
        let is_every_one = (count..count + STRAY).contains(&arrived);
        assert!(
            is_every_one || self.variant.kind == Kind::Einat,
            "{}: {arrived} of {count} flows were opened",
            self.variant.kind.name()
        );
        self.refused += count.saturating_sub(arrived);
        cost
    }
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
