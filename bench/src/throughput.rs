//! What a guest's TCP connections carry (B6), on every way.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::figures::Figures;
use crate::guest::bulk::{Carried, Course, Load, carry, carry_on, note_again, open};
use crate::guest::host::{Host, Setting};
use crate::guest::machine::Offloads;
use crate::guest::way::Way;
use crate::guest::work::Workers;
use crate::report::{Better, Table};
use crate::session::Session;

/// Networks of a long policy.
const NETWORKS: u32 = 1_000;
/// More than any connection here carries.
const UNREACHED: &str = "100gbit";

/// Who is measured: a way, and how netagent is asked for more than it has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Contestant {
    way: Way,
    has_policy: bool,
}

impl Contestant {
    const fn plain(way: Way) -> Self {
        Self {
            way,
            has_policy: false,
        }
    }

    const fn name(self) -> &'static str {
        if self.has_policy {
            "netagent, 1,000 networks and a limit"
        } else {
            self.way.name()
        }
    }

    fn setting(self, offloads: Offloads) -> Setting {
        let mut setting = Setting::with(offloads);
        if self.has_policy {
            let denied = |number| format!("10.{}.{}.0/24", number >> 8, number & 0xff);
            let denied: Vec<String> = (0..NETWORKS).map(denied).collect();
            setting.spec = json!({
                "denied_cidrs": denied,
                "bandwidth": UNREACHED,
                "bandwidth_in": UNREACHED,
            });
        }
        setting
    }
}

/// Those of a first impression.
const QUICK_WAYS: [Way; 3] = [Way::Netagent, Way::Nft, Way::Passt];
const ROUNDS: u32 = 7;
/// Part of nft's throughput that is netagent's at least.
const GOAL: f64 = 0.97;

/// What one table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    offloads: Offloads,
    course: Course,
    flows: usize,
}

impl Row {
    fn id(self) -> String {
        let frames = match self.offloads {
            Offloads::On => "gso",
            Offloads::Off => "mtu",
        };
        let (course, flows) = (self.course.name(), self.flows);
        format!("throughput/{frames}/{course}/{flows}-flow")
    }

    fn title(self) -> String {
        let frames = match self.offloads {
            Offloads::On => "offloads on",
            Offloads::Off => "frames of 1,514 bytes",
        };
        let course = match self.course {
            Course::Up => "guest to world",
            Course::Down => "world to guest",
            Course::Both => "both ways at once",
            Course::In => "world to guest by a published port",
        };
        let flows = if self.flows == 1 {
            "1 connection".to_owned()
        } else {
            format!("{} connections", self.flows)
        };
        format!("Bulk TCP, {course}, {flows}, {frames}")
    }
}

fn rows(is_quick: bool) -> Vec<Row> {
    let row = |offloads, course, flows| Row {
        offloads,
        course,
        flows,
    };
    if is_quick {
        return vec![
            row(Offloads::On, Course::Up, 1),
            row(Offloads::On, Course::Down, 1),
        ];
    }
    let mut rows = Vec::new();
    for course in [Course::Up, Course::Down, Course::Both, Course::In] {
        rows.push(row(Offloads::On, course, 1));
    }
    rows.push(row(Offloads::On, Course::Up, 8));
    rows.push(row(Offloads::On, Course::Down, 8));
    for course in [Course::Up, Course::Down] {
        rows.push(row(Offloads::Off, course, 1));
    }
    rows
}

/// Measures every way in turn, each round in new namespaces.
pub fn run(session: &mut Session) {
    let is_quick = session.is_quick();
    let all: &[Way] = if is_quick { &QUICK_WAYS } else { &Way::ALL };
    let (here, missing): (Vec<Way>, Vec<Way>) = all.iter().partition(|way| way.is_here());
    let mut ways: Vec<Contestant> = here.into_iter().map(Contestant::plain).collect();
    if !is_quick {
        ways.push(Contestant {
            way: Way::Netagent,
            has_policy: true,
        });
    }
    let (rows, rounds) = (rows(is_quick), session.rounds(ROUNDS));
    let load = Load {
        warm_up: Duration::from_millis(100),
        window: Duration::from_millis(250),
        pace: None,
    };
    let bar = session.bar("throughput", rounds * ways.len() as u32);
    let mut figures: BTreeMap<(usize, usize), Figures> = BTreeMap::new();
    let (mut short, mut stalls) = (0, 0);
    for _ in 0..rounds {
        for (number, way) in ways.iter().enumerate() {
            for (index, carried, again) in measure(*way, &rows, load) {
                stalls += again;
                let gigabits = carried.bits / 1e9;
                figures.entry((index, number)).or_default().add(gigabits);
                short += u32::from(!carried.is_whole);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let median = |row: Row, way: Way| -> Option<f64> {
        let index = rows.iter().position(|one| *one == row)?;
        let number = ways.iter().position(|one| *one == Contestant::plain(way))?;
        Some(figures.get(&(index, number))?.median())
    };
    for (index, row) in rows.iter().enumerate() {
        let mut table = Table::new(&row.id(), &row.title(), ("Gbit/s", Better::Higher));
        for (number, way) in ways.iter().enumerate() {
            if let Some(figures) = figures.get(&(index, number)) {
                table.add(way.name(), figures);
            }
        }
        explain(&mut table, *row, (&missing, (short, stalls)));
        session.add(table);
    }
    for row in rows.iter().filter(|row| is_goal(**row)) {
        if let (Some(own), Some(nft)) = (median(*row, Way::Netagent), median(*row, Way::Nft)) {
            let what = format!("{}, beside nft", row.title());
            session.goal(&what, own / nft, (Better::Higher, GOAL));
        }
    }
}

fn is_goal(row: Row) -> bool {
    row.offloads == Offloads::On && matches!(row.course, Course::Up | Course::Down)
}

/// Measures every row of one way: hosts with and without offloads one after the other.
fn measure(contestant: Contestant, rows: &[Row], load: Load) -> Vec<(usize, Carried, u32)> {
    let (mut found, way) = (Vec::new(), contestant.way);
    for offloads in [Offloads::On, Offloads::Off] {
        let mut wanted = rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.offloads == offloads)
            .peekable();
        if wanted.peek().is_none() {
            continue;
        }
        let host = Host::prepare(way, &contestant.setting(offloads));
        let workers = host.workers();
        if way == Way::Passt {
            // Its first connections stand still for a while; what comes later is what its users have.
            for course in [Course::Up, Course::Down] {
                let Carried { .. } = carry(open(&host, course, 1), load, &workers);
            }
        }
        for (index, row) in wanted.filter(|(_, row)| can(way, row.course)) {
            let (carried, again) = carried(&host, *row, (load, &workers));
            found.push((index, carried, again));
        }
    }
    found
}

/// Debian's passt ends at the first connection from outside on current kernels.
fn can(way: Way, course: Course) -> bool {
    way != Way::Passt || course != Course::In
}

/// Every way hands over what was sent, but for passt, which is known to lose the end of a connection, and to stand still.
fn carried(host: &Host, row: Row, (load, workers): (Load, &Workers)) -> (Carried, u32) {
    let flows = || open(host, row.course, row.flows);
    if host.way == Way::Passt {
        return (carry(flows(), load, workers), 0);
    }
    let (found, again) = carry_on(flows, load, workers);
    let name = host.way.name();
    assert!(found.is_whole, "{name} lost bytes: {}", row.id());
    (found, again)
}

fn explain(table: &mut Table, row: Row, (missing, (short, stalls)): (&[Way], (u32, u32))) {
    table.note("One simulated VMM for all ways, on one core; the programs of both ends on the other. Samples of the data are compared, and all of it is counted.");
    note_again(table, stalls);
    for way in missing {
        table.add(way.name(), &Figures::default());
        table.note(format!("{}: not installed here", way.name()));
    }
    if row.course == Course::In {
        table.add(Way::Passt.name(), &Figures::default());
        table.note(
            "passt: Debian's one ends at the first connection from outside on current kernels.",
        );
    } else if row.offloads == Offloads::On {
        table.note(format!(
            "passt: {short} transfers of all tables stood still before their end."
        ));
        table.note("passt: an MTU of 65,520 bytes, as it advises; frames on a stream socket, without virtio headers.");
    }
    table.note("tcx redirect, kernel route and linux bridge: no NAT and no filter.");
}
