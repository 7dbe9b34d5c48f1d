//! What a TCP connection carries from one guest of a host to another, and from a guest to the world through a relay (B6),
//! on every way.

use std::time::Duration;

use crate::figures::Figures;
use crate::guest::bulk::{self, Carried, Load, carry, connection, in_turn};
use crate::guest::pair::{Pair, Relation};
use crate::guest::way::Way;
use crate::report::{Better, Table};
use crate::session::Session;

const ROUNDS: u32 = 7;
/// Part of nft's throughput that is netagent's at least.
const GOAL: f64 = 0.97;
/// No frame carries more.
const FRAME: f64 = 65_536.0;
const LOAD: Load = Load {
    warm_up: Duration::from_millis(40),
    window: Duration::from_millis(110),
    pace: None,
};

/// What one table is about.
struct Row {
    id: &'static str,
    title: &'static str,
    relation: Relation,
    /// Whether data goes from the guest that opens the connection.
    is_up: bool,
}

const ROWS: [Row; 3] = [
    Row {
        id: "between/guests",
        title: "Bulk TCP, guest to guest on one host, 1 connection, offloads on",
        relation: Relation::Neighbours,
        is_up: true,
    },
    Row {
        id: "between/relay/up",
        title: "Bulk TCP, guest to world through a relay, 1 connection, offloads on",
        relation: Relation::Relayed,
        is_up: true,
    },
    Row {
        id: "between/relay/down",
        title: "Bulk TCP, world to guest through a relay, 1 connection, offloads on",
        relation: Relation::Relayed,
        is_up: false,
    },
];

/// Measures every way in turn. All are set up once: an agent starts for longer than a connection is measured.
pub fn run(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("between guests and through a relay", rounds);
    let neighbours = prepare(Relation::Neighbours);
    let relayed = prepare(Relation::Relayed);
    let pairs = |row: &Row| match row.relation {
        Relation::Neighbours => &neighbours,
        Relation::Relayed => &relayed,
    };
    let mut found = ROWS.each_ref().map(|row| {
        let none = pairs(row).iter().map(|pair| (pair.way, Figures::default()));
        none.collect::<Vec<_>>()
    });
    for _ in 0..rounds {
        for (row, found) in ROWS.iter().zip(&mut found) {
            let carried = in_turn(pairs(row), |pair| measure(pair, row));
            for (carried, (way, figures)) in carried.into_iter().zip(found) {
                let name = way.name();
                assert!(carried.bits > 0.0, "{name} stood still: {}", row.id);
                figures.add(carried.rate() / 1e9);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    for (row, found) in ROWS.iter().zip(&found) {
        report(session, row, found);
    }
}

fn prepare(relation: Relation) -> Vec<Pair> {
    let ways = relation.ways().iter().filter(|way| way.is_here());
    ways.map(|way| Pair::prepare(relation, *way)).collect()
}

/// What a new connection of a pair carries.
fn measure(pair: &Pair, row: &Row) -> Carried {
    let before = pair.through_relay();
    let flow = connection(pair.ends(), row.is_up);
    let carried = carry(vec![flow], LOAD, &pair.workers());
    let (name, after) = (pair.way.name(), pair.through_relay());
    assert_eq!(carried.broken, 0, "{name} lost bytes: {}", row.id);
    if pair.relation == Relation::Relayed {
        let frames = carried.bits / 8.0 / FRAME;
        for (before, after) in [(before.0, after.0), (before.1, after.1)] {
            let through = (after - before) as f64;
            assert!(through > frames, "{name} went past the relay: {}", row.id);
        }
    }
    carried
}

fn report(session: &mut Session, row: &Row, found: &[(Way, Figures)]) {
    let mut table = Table::new(row.id, row.title, ("Gbit/s", Better::Higher));
    for (way, figures) in found {
        table.add(way.name(), figures);
    }
    let missing = row.relation.ways().iter().filter(|way| !way.is_here());
    for way in missing {
        table.add(way.name(), &Figures::default());
        table.note(format!("{}: not installed here", way.name()));
    }
    table.note("One simulated VMM for all ways, both guests' on one core; the programs of both ends on the other. Samples of the data are compared, and all of it is counted.");
    table.note(bulk::NOTE);
    table.note(match row.relation {
        Relation::Neighbours => "Nobody translates addresses here. nft and iptables: a filter that lets the first guest open connections to the other, established ones first. tcx redirect, kernel route and linux bridge filter nothing.",
        Relation::Relayed => "The relay is a guest that forwards. nft, iptables and kernel route: rules of policy routing to it and back; what goes between client and relay is not tracked, or nobody would translate it later. kernel route: no NAT and no filter.",
    });
    session.add(table);
    let median = |wanted: Way| {
        let mut found = found.iter();
        let (_, figures) = found.find(|(way, _)| *way == wanted)?;
        Some(figures.median())
    };
    if let (Some(own), Some(nft)) = (median(Way::Netagent), median(Way::Nft)) {
        let what = format!("{}, beside nft", row.title);
        session.goal(&what, own / nft, (Better::Higher, GOAL));
    }
}
