//! What arrives of more demand than a limit allows (P-11): UDP, sixteen TCP connections and one, in both directions; and
//! what a limit costs each packet.

use std::net::IpAddr;
use std::time::Duration;

use netagent_common::limit::PACKETS_PER_SECOND_MAX;
use serde_json::{Value, json};

use crate::figures::Figures;
use crate::frames::Frames;
use crate::pair::{Pair, QUIET, datagram};
use crate::report::{Better, Table};
use crate::session::Session;
use crate::variant::drop_at_far_end;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::{now, wait_until};
use netagent_tests::demand::{Demand, Ends, arriving};
use netagent_tests::guest::Guest;
use netagent_tests::limits::{both_ways, kbit};
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{World, server_v4};

/// Over which the accuracy is promised.
const TIME: Duration = Duration::from_secs(10);
/// After which a whole burst may pass again.
const SILENCE: Duration = Duration::from_millis(500);
/// The instance.
const NAME: &str = "limited";
const MEGABIT: u64 = 1_000_000;
const RATES: [u64; 3] = [MEGABIT, 50 * MEGABIT, 1_000 * MEGABIT];
/// How TCP controls congestion.
const CONTROLS: [&str; 2] = ["cubic", "bbr"];
/// Frames of one measurement.
const FRAMES: u32 = 400_000;
/// Highest price of a limit, ns.
const COST: f64 = 60.0;
/// Least of a limit that has to be on the wire, percent: of many senders, of one connection; and the most.
const MANY_LEAST: f64 = 95.0;
const ONE_LEAST: f64 = 85.0;
const MOST: f64 = 102.0;
/// Rounds of a full run.
const ROUNDS: u32 = 7;
/// A limit that 64-byte frames from one core do not reach.
const UNREACHED: u64 = 100_000 * MEGABIT;

/// Measures what arrives of every rate.
pub fn run(session: &mut Session) {
    for rate in RATES {
        let demands = demands(rate);
        let bar = session.bar("limits", 2 * demands.len() as u32);
        let world = World::new();
        let agent = world.agent("");
        let mut guest = Guest::create(&agent, &world.host, NAME, Header::Vnet);
        let stack = Stack::boot(guest.nics.remove(0), 1_500);
        agent.limit(NAME, &both_ways(rate));
        let mut found = Vec::new();
        for is_upload in [true, false] {
            let ends = Ends {
                guest: &stack.netns,
                world: &world.outside,
                server: IpAddr::V4(server_v4(0)),
                is_upload,
            };
            let mut tables = tables(rate, is_upload);
            for (name, demand, least) in &demands {
                let percents = measure((&agent, rate), (ends, *demand));
                for (table, percent) in tables.iter_mut().zip(percents) {
                    table.add(name, &Figures::from_iter([percent]));
                }
                let [wire, _] = percents;
                found.push((wire, *least));
                bar.inc(1);
            }
            tables.into_iter().for_each(|table| session.add(table));
        }
        judge(session, rate, &found);
    }
}

/// What was on the wire, and what arrived of it as payload.
fn tables(rate: u64, is_upload: bool) -> [Table; 2] {
    let direction = if is_upload { "up" } else { "down" };
    let (rate, seconds) = (rate / MEGABIT, TIME.as_secs());
    [
        ("wire", "frames on the wire"),
        ("payload", "payload that arrived"),
    ]
    .map(|(name, what)| {
        let id = format!("limit/{rate}-mbit/{direction}/{name}");
        let title = format!("a limit of {rate} Mbit/s {direction}, {seconds} s, {what}");
        Table::new(&id, &title, ("% of the limit", Better::Higher))
    })
}

/// What was on the wire of each demand, percent, beside the least that was to be.
fn judge(session: &mut Session, rate: u64, found: &[(f64, f64)]) {
    let rate = rate / MEGABIT;
    for least in [MANY_LEAST, ONE_LEAST] {
        let wires = found.iter().filter(|(_, wanted)| *wanted == least);
        let lowest = wires.map(|(wire, _)| *wire).reduce(f64::min);
        let who = if least == ONE_LEAST {
            "one TCP connection"
        } else {
            "UDP, many connections"
        };
        session.goal(
            &format!("limit of {rate} Mbit/s: least on the wire, {who}, %"),
            lowest.unwrap_or_default(),
            (Better::Higher, least),
        );
    }
    let highest = found.iter().map(|(wire, _)| *wire).reduce(f64::max);
    session.goal(
        &format!("limit of {rate} Mbit/s: most on the wire, %"),
        highest.unwrap_or_default(),
        (Better::Lower, MOST),
    );
}

/// Name, demand, and the least that must arrive, percent.
fn demands(rate: u64) -> Vec<(String, Demand, f64)> {
    let mut demands = vec![("UDP".to_owned(), Demand::Udp(rate / 2 * 3), MANY_LEAST)];
    demands.push((
        "TCP, 16 connections".to_owned(),
        Demand::Tcp(16, "cubic"),
        MANY_LEAST,
    ));
    for control in CONTROLS {
        let name = format!("TCP, 1 connection ({control})");
        demands.push((name, Demand::Tcp(1, control), ONE_LEAST));
    }
    demands
}

/// Frames on the wire and payload that arrived, percent of the rate.
fn measure((agent, rate): (&Agent, u64), (ends, demand): (Ends<'_>, Demand)) -> [f64; 2] {
    let sent = || {
        let traffic = agent.traffic(NAME);
        if ends.is_upload {
            traffic.from_vm_bytes
        } else {
            traffic.to_vm_bytes
        }
    };
    let silent = now();
    wait_until("a silence", 2 * SILENCE, || silent.elapsed() >= SILENCE);
    // Connections are opened and closed beside the ten seconds, by frames that count as well.
    let (started, before) = (now(), sent());
    let arrived = arriving(ends, demand, TIME);
    let wire = (sent() - before) as f64 * 8.0 / started.elapsed().as_secs_f64();
    [wire, arrived].map(|bits| bits / rate as f64 * 100.0)
}

/// Measures what a packet costs with limits and without, interleaved.
pub fn cost(session: &mut Session) {
    let (rounds, count) = (session.rounds(ROUNDS), session.count(FRAMES));
    let bar = session.bar("what a limit costs", rounds);
    let Pair {
        world,
        agent,
        quiet,
        ..
    } = Pair::new("");
    let _far_end = drop_at_far_end(&world);
    let mut frames = Frames::from_iter([datagram(&quiet, server_v4(0), (4_000, 53))]);
    let limit = kbit(UNREACHED);
    let pps = json!({ "pps": PACKETS_PER_SECOND_MAX });
    let ways: [(&str, Value); 4] = [
        ("no limit", json!({})),
        ("bandwidth", json!({ "bandwidth": limit })),
        ("packets", json!({ "limits": pps })),
        ("both", json!({ "bandwidth": limit, "limits": pps })),
    ];
    let mut figures: [Figures; 4] = Default::default();
    for _ in 0..rounds {
        for ((_, limits), figures) in ways.iter().zip(&mut figures) {
            agent.limit(QUIET, limits);
            let before = agent.traffic(QUIET).from_vm_packets;
            let cost = frames.write(quiet.tap.file(), (0, count));
            let sent = agent.traffic(QUIET).from_vm_packets - before;
            assert_eq!(sent, u64::from(count), "none is dropped");
            figures.add(cost.processor);
        }
        bar.inc(1);
    }
    let title = "limits that are not reached, 64-byte frames, guest to uplink, processor time";
    let mut table = Table::new("limit-cost/64-bytes", title, ("ns", Better::Lower));
    for ((name, ..), figures) in ways.iter().zip(&figures) {
        table.add(name, figures);
    }
    session.add(table);
    // Of each round by itself: the machine's own rhythm is longer than a round.
    let [none, bandwidth, ..] = &figures;
    let rounds = bandwidth.values().iter().zip(none.values());
    let added: Figures = rounds.map(|(with, without)| with - without).collect();
    let what = "what a limit of bandwidth adds to a frame, ns";
    session.goal(what, added.median(), (Better::Lower, COST));
}
