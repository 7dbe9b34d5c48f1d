//! What the processors spend on a guest's bulk transfer at a steady pace (B8), on every way: the host alone, and with both
//! ends.

mod host;

use std::time::Duration;

use crate::figures::Figures;
use crate::guest::bulk::{self, Carried, Course, Load, carry, in_turn, open};
use crate::guest::host::{Host, Setting};
use crate::guest::machine::Offloads;
use crate::guest::rounds::on_new_hosts;
use crate::guest::way::Way;
use crate::report::{Better, Table};
use crate::session::Session;

/// Of the others the part of the host is measured alone.
const WAYS: [Way; 4] = [Way::Netagent, Way::Redirect, Way::Nft, Way::Passt];
const ROUNDS: u32 = 7;
/// What is offered, bytes a second: 1 Gbit/s.
const PACE: f64 = 125e6;
/// Part of it that has to arrive.
const LEAST: f64 = 0.97;
/// Tables, in the order in which they are measured.
const TABLES: [(Offloads, Course); 4] = [
    (Offloads::On, Course::Up),
    (Offloads::On, Course::Down),
    (Offloads::Off, Course::Up),
    (Offloads::Off, Course::Down),
];
/// netagent's most beside nft, both ends included.
const MOST: f64 = 1.0;
const LOAD: Load = Load {
    warm_up: Duration::from_millis(70),
    window: Duration::from_millis(120),
    pace: Some(PACE),
};

/// Measures every way in turn, each round in new namespaces.
pub fn run(session: &mut Session) {
    host::run(session);
    let rounds = session.rounds(ROUNDS);
    let (ways, missing): (Vec<Way>, Vec<Way>) = WAYS.iter().partition(|way| way.is_here());
    let mut found: Vec<[Vec<Carried>; 4]> = ways.iter().map(|_| Default::default()).collect();
    let bar = session.bar("processor time", rounds * TABLES.len() as u32);
    let prepare = |offloads| {
        let host = |way: &Way| Host::prepare(*way, &Setting::with(offloads));
        ways.iter().map(host).collect()
    };
    let frames = TABLES.map(|(offloads, _)| offloads);
    on_new_hosts(rounds, &frames, prepare, |index, hosts| {
        let (_, course) = TABLES[index];
        let carried = in_turn(hosts, |host| {
            carry(open(host, course, 1), LOAD, &host.workers())
        });
        for (carried, found) in carried.into_iter().zip(&mut found) {
            found[index].push(carried);
        }
        bar.inc(1);
    });
    bar.finish_and_clear();
    for (index, (offloads, course)) in TABLES.into_iter().enumerate() {
        let (frames, what) = match offloads {
            Offloads::On => ("gso", "offloads on"),
            Offloads::Off => ("mtu", "frames of 1,514 bytes"),
        };
        let course = course.name();
        let title =
            format!("Processor time with both ends, bulk TCP at 1 Gbit/s, {course}, {what}");
        let id = format!("cpu/{frames}/{course}");
        let mut table = Table::new(&id, &title, ("ms/Gbit", Better::Lower));
        let median = |way: Way| {
            let place = ways.iter().position(|one| *one == way)?;
            Some(cost(&found[place][index]).median())
        };
        let beside = median(Way::Netagent).zip(median(Way::Nft));
        for (way, found) in ways.iter().zip(&found) {
            table.add(way.name(), &cost(&found[index]));
            explain(&mut table, *way, &found[index]);
        }
        for way in &missing {
            table.add(way.name(), &Figures::default());
            table.note(format!("{}: not installed here", way.name()));
        }
        table.note(bulk::NOTE);
        table.note("The host's part, with what netagent's or passt's process takes; and the VMM, the stacks and the programs of both ends, which are the same for all ways.");
        session.add(table);
        if let Some((own, nft)) = beside {
            let what = format!("{title}, beside nft");
            session.goal(&what, own / nft, (Better::Lower, MOST));
        }
    }
}

fn cost(found: &[Carried]) -> Figures {
    let milliseconds = |carried: &Carried| carried.processor() * 1e3;
    found.iter().map(milliseconds).collect()
}

/// Says where a way did not carry what was offered.
fn explain(table: &mut Table, way: Way, found: &[Carried]) {
    let carried: Figures = found.iter().map(|carried| carried.rate() / 8.0).collect();
    let part = carried.median() / PACE;
    if part < LEAST {
        let name = way.name();
        table.note(format!("{name} carried {:.0} % of it", part * 100.0));
    }
}
