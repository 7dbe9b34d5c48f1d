//! How long a guest waits for an answer, and how many connections it opens in a second (B7), on every way.

use crate::figures::Figures;
use crate::guest::host::{Host, Setting};
use crate::guest::machine::Offloads;
use crate::guest::pingpong::{by_tcp, by_udp, connections};
use crate::guest::way::Way;
use crate::report::{Better, Table};
use crate::session::Session;
use crate::variant::CONFIGURATION;

const ROUNDS: u32 = 7;
/// Exchanges of one round.
const EXCHANGES: u32 = 12_000;
/// Connections of one round.
const CONNECTIONS: u32 = 4_000;
/// The tables: id, title, and which values are good.
const TABLES: [(&str, &str, (&str, Better)); 5] = [
    (
        "latency/udp/p50",
        "An exchange of 64 bytes by UDP, median",
        ("µs", Better::Lower),
    ),
    (
        "latency/udp/p99",
        "An exchange of 64 bytes by UDP, 99th percentile",
        ("µs", Better::Lower),
    ),
    (
        "latency/tcp/p50",
        "An exchange of 64 bytes by TCP, median",
        ("µs", Better::Lower),
    ),
    (
        "latency/tcp/p99",
        "An exchange of 64 bytes by TCP, 99th percentile",
        ("µs", Better::Lower),
    ),
    (
        "latency/connections",
        "Connections opened, used for one byte each way, and closed",
        ("connections/s", Better::Higher),
    ),
];

/// Measures every way in turn, each round in new namespaces.
pub fn run(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let counts = (session.count(EXCHANGES), session.count(CONNECTIONS));
    let (ways, missing): (Vec<Way>, Vec<Way>) = Way::ALL.iter().partition(|way| way.is_here());
    let mut figures: Vec<[Figures; 5]> = ways.iter().map(|_| Default::default()).collect();
    let bar = session.bar("latency", rounds * ways.len() as u32);
    for _ in 0..rounds {
        for (way, figures) in ways.iter().zip(&mut figures) {
            for (figures, value) in figures.iter_mut().zip(measure(*way, counts)) {
                figures.add(value);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let place = |way| ways.iter().position(|one| *one == way);
    for (index, (id, title, unit)) in TABLES.into_iter().enumerate() {
        let mut table = Table::new(id, title, unit);
        for (way, figures) in ways.iter().zip(&figures) {
            table.add(way.name(), &figures[index]);
        }
        explain(&mut table, &missing);
        session.add(table);
        let (Some(own), Some(nft)) = (place(Way::Netagent), place(Way::Nft)) else {
            continue;
        };
        if unit.1 == Better::Lower {
            let ratio = figures[own][index].median() / figures[nft][index].median();
            session.goal(&format!("{title}, beside nft"), ratio, (Better::Lower, 1.0));
        }
    }
}

/// In the order of the tables.
fn measure(way: Way, (exchanges, opened): (u32, u32)) -> [f64; 5] {
    let setting = Setting {
        configuration: CONFIGURATION,
        ..Setting::with(Offloads::On)
    };
    let host = Host::prepare(way, &setting.spinning());
    let (udp, tcp) = (by_udp(&host, exchanges), by_tcp(&host, exchanges));
    [
        udp.quantile(0.5),
        udp.quantile(0.99),
        tcp.quantile(0.5),
        tcp.quantile(0.99),
        connections(&host, opened),
    ]
}

fn explain(table: &mut Table, missing: &[Way]) {
    table.note("Client and server are one thread that never sleeps, the VMM is another: nobody is woken, but for passt.");
    table.note("tcx redirect, kernel route and linux bridge: no NAT and no filter.");
    for way in missing {
        table.add(way.name(), &Figures::default());
        table.note(format!("{}: not installed here", way.name()));
    }
}
