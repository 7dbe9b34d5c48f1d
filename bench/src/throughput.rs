//! What a guest's TCP connections carry (B6), on every way.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::figures::Figures;
use crate::guest::bulk::{self, Carried, Course, Load, carry, in_turn, open};
use crate::guest::host::{Host, Setting};
use crate::guest::machine::Offloads;
use crate::guest::rounds::on_new_hosts;
use crate::guest::way::Way;
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

    /// A host of its own.
    fn prepare(self, offloads: Offloads) -> Host {
        let host = Host::prepare(self.way, &self.setting(offloads));
        if self.way == Way::Passt {
            // Its first connections stand still for a while; what comes later is what its users have.
            for course in [Course::Up, Course::Down] {
                let Carried { .. } = carry(open(&host, course, 1), FIRST, &host.workers());
            }
        }
        host
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
const LOAD: Load = Load {
    warm_up: Duration::from_millis(35),
    window: Duration::from_millis(45),
    pace: None,
};
/// The same for the first connections of a host.
const FIRST: Load = Load {
    window: Duration::from_millis(300),
    ..LOAD
};
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
    let bar = session.bar("throughput", rounds * rows.len() as u32);
    let mut figures: BTreeMap<(usize, usize), Figures> = BTreeMap::new();
    let mut broken = 0;
    let prepare = |offloads| ways.iter().map(|way| way.prepare(offloads)).collect();
    let frames: Vec<Offloads> = rows.iter().map(|row| row.offloads).collect();
    on_new_hosts(rounds, &frames, prepare, |index, hosts| {
        for (number, carried) in measure(hosts, rows[index]) {
            broken += carried.broken;
            let gigabits = carried.rate() / 1e9;
            figures.entry((index, number)).or_default().add(gigabits);
        }
        bar.inc(1);
    });
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
        explain(&mut table, *row, (&missing, broken));
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

/// What every host carries of a row, beside the place of the host.
fn measure(hosts: &[Host], row: Row) -> Vec<(usize, Carried)> {
    let able: Vec<(usize, &Host)> = hosts
        .iter()
        .enumerate()
        .filter(|(_, host)| can(host.way, row.course))
        .collect();
    let carried = in_turn(&able, |(_, host)| carried(host, row));
    able.iter()
        .zip(carried)
        .map(|((number, host), carried)| {
            let (is_moving, name) = (carried.bits > 0.0, host.way.name());
            assert!(
                is_moving || host.way == Way::Passt,
                "{name} stood still: {}",
                row.id()
            );
            (*number, carried)
        })
        .collect()
}

/// Debian's passt ends at the first connection from outside on current kernels.
fn can(way: Way, course: Course) -> bool {
    way != Way::Passt || course != Course::In
}

/// Every way hands over what was sent, but for passt, which is known to lose the end of a connection, and to stand still.
fn carried(host: &Host, row: Row) -> Carried {
    let found = carry(open(host, row.course, row.flows), LOAD, &host.workers());
    let name = host.way.name();
    assert!(
        found.broken == 0 || host.way == Way::Passt,
        "{name} lost bytes: {}",
        row.id()
    );
    found
}

fn explain(table: &mut Table, row: Row, (missing, broken): (&[Way], u32)) {
    table.note("One simulated VMM for all ways, on one core; the programs of both ends on the other. Samples of the data are compared, and all of it is counted.");
    table.note(bulk::NOTE);
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
            "passt: {broken} transfers of all tables stood still before their end."
        ));
        table.note("passt: an MTU of 65,520 bytes, as it advises; frames on a stream socket, without virtio headers.");
    }
    table.note("tcx redirect, kernel route and linux bridge: no NAT and no filter.");
}
