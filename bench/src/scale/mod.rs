//! Hosts that fill up: what a frame costs, what one more virtual machine takes, and memory, step by step.
//!
//! All hosts grow in turn to each size, and are measured there in turn.

mod fleet;
mod rules;
mod vm;

use std::fs;
use std::thread;
use std::time::Duration;

use netagent_tests::deadline::{now, wait_until};
use netagent_tests::netns::NetNs;
use nix::unistd::write;

use crate::costs::{Costs, Rate};
use crate::figures::Figures;
use crate::path::{Cost, STRAY, timed};
use crate::report::{Better, Table};
use crate::scale::fleet::{Fleet, Way};
use crate::scale::vm::Sender;
use crate::session::Session;

/// Virtual machines of a host.
const SIZES: [usize; 5] = [1, 10, 100, 1_000, 4_096];
/// Those of a host that is as full as memory allows.
const MANY: [usize; 1] = [10_000];
/// Those of a first impression.
const QUICK: usize = 3;
/// What those of all ways take, and a quarter more: 0.09 MB for a device with its neighbours, and the agent's tables, MB.
const MANY_MB: f64 = 6_000.0;
/// How long the kernel may take to do away with the hosts of earlier benchmarks.
const GONE: Duration = Duration::from_secs(600);
/// A namespace is made within this time where it does nothing else.
const IDLE: Duration = Duration::from_millis(100);
/// Rounds.
const ROUNDS: u32 = 3;
/// Virtual machines that are added one by one at each size, at most.
const SINGLE: usize = 10;
/// Virtual machines that send, where frames are spread, at most.
const SENDERS: usize = 512;
/// Time of one measurement, about.
const TIME: Duration = Duration::from_millis(200);
/// Frames of one measurement, at most.
const FRAMES: u32 = 100_000;
/// Frames that say how many fit into the time.
const PROBE: u32 = 200;
/// What the host does by itself where TAPs were opened.
const SETTLED: Duration = Duration::from_secs(1);

/// What was found of all hosts.
#[derive(Default)]
struct Found {
    one: Costs,
    spread: Costs,
    create: Vec<(&'static str, usize, Figures)>,
    memory: Vec<(&'static str, usize, Figures)>,
}

/// Measures all of it.
pub fn run(session: &mut Session) {
    let sizes = if session.is_quick() {
        &SIZES[..QUICK]
    } else {
        &SIZES[..]
    };
    fill(session, "scale", sizes);
}

/// The same at 10,000 virtual machines of each host.
///
/// # Panics
/// Where the machine has not enough memory for them.
pub fn many(session: &mut Session) {
    let free = available_mb();
    assert!(
        free > MANY_MB,
        "{free:.0} MB of memory are available, and 10,000 instances of each way take {MANY_MB:.0}: run it on a larger machine"
    );
    wait_until("earlier hosts are gone", GONE, kernel_is_idle);
    fill(session, "scale-10000", &MANY);
}

/// Grows a host of each way to each size, and measures them there.
fn fill(session: &mut Session, id: &str, sizes: &[usize]) {
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("hosts that fill up", sizes.len() as u32);
    let mut found = Found::default();
    let ways = Way::ALL.into_iter().filter(|way| way.is_there());
    let mut memory = Vec::new();
    let mut fleets = Vec::new();
    for way in ways {
        let before = kernel_mb();
        fleets.push(Fleet::new(way));
        memory.push(kernel_mb() - before);
    }
    for &size in sizes {
        for (fleet, memory) in fleets.iter_mut().zip(&mut memory) {
            let name = fleet.way.name();
            bar.set_message(format!("{name} grows to {size}"));
            let before = kernel_mb();
            let created = grow(fleet, size);
            *memory += kernel_mb() - before;
            found.create.push((name, size, created));
            let figures = Figures::from_iter([*memory + fleet.agent_mb()]);
            found.memory.push((name, size, figures));
        }
        bar.set_message(format!("frames of {size}"));
        measure(&fleets, size, rounds, &mut found);
        bar.inc(1);
    }
    bar.finish_and_clear();
    report(session, id, &found);
}

/// Grows a host to a size, and says how long the last ones took, ms.
fn grow(fleet: &mut Fleet, size: usize) -> Figures {
    let single = SINGLE.min(size - fleet.vms.len());
    fleet.add_many(size - single);
    let mut took = Figures::default();
    for _ in 0..single {
        took.add(fleet.add_one().as_secs_f64() * 1e3);
    }
    assert_eq!(fleet.vms.len(), size);
    took
}

/// Measures all hosts in turn: the one that was added last alone, and many in turn.
fn measure(fleets: &[Fleet], size: usize, rounds: u32, found: &mut Found) {
    let step = size.div_ceil(SENDERS);
    let mut one: Vec<(&Fleet, Vec<Sender>)> = fleets
        .iter()
        .map(|fleet| (fleet, fleet.senders(size - 1, 1)))
        .collect();
    measure_in_turn(&mut one, size, rounds, &mut found.one);
    drop(one);
    let mut many: Vec<(&Fleet, Vec<Sender>)> = fleets
        .iter()
        .map(|fleet| (fleet, fleet.senders(0, step)))
        .collect();
    measure_in_turn(&mut many, size, rounds, &mut found.spread);
}

fn measure_in_turn(all: &mut [(&Fleet, Vec<Sender>)], size: usize, rounds: u32, costs: &mut Costs) {
    thread::park_timeout(SETTLED);
    for (fleet, senders) in &mut *all {
        senders.iter().for_each(|sender| fleet.check(sender));
    }
    for _ in 0..rounds {
        for (fleet, senders) in &mut *all {
            let cost = send(fleet, senders);
            costs.add_at(fleet.way.name(), Some(size as f64), cost);
        }
    }
}

/// Sends from all in turn for a while, from core 0.
fn send(fleet: &Fleet, senders: &[Sender]) -> Cost {
    let mut next = 0;
    let mut go_on = |count| {
        timed(0, count, |_| {
            let sender: &Sender = &senders[next];
            write(sender.tap.file(), &sender.frame).expect("the TAP takes frames");
            next += 1;
            if next == senders.len() {
                next = 0;
            }
        })
    };
    let probe = go_on(PROBE.max(senders.len() as u32));
    let count = (TIME.as_secs_f64() * 1e9 / probe.wall) as u32;
    let count = count.clamp(PROBE, FRAMES);
    let before = fleet.arrived();
    let cost = go_on(count);
    let arrived = fleet.arrived() - before;
    assert!(
        (u64::from(count)..u64::from(count) + STRAY).contains(&arrived),
        "{}: {arrived} of {count} frames arrived",
        fleet.way.name()
    );
    cost
}

/// Whether the kernel makes namespaces at once, time after time: while it takes thousands of devices away, each waits for
/// seconds.
fn kernel_is_idle() -> bool {
    (0..3).all(|_| {
        thread::park_timeout(SETTLED);
        let began = now();
        drop(NetNs::new());
        began.elapsed() < IDLE
    })
}

/// Memory of the kernel that it cannot give back, MB. What processes and caches have is not in it: other work on the
/// machine would be.
fn kernel_mb() -> f64 {
    meminfo_mb(&["SUnreclaim:", "Percpu:", "VmallocUsed:", "KernelStack:"])
}

/// Memory that can be taken, MB.
fn available_mb() -> f64 {
    meminfo_mb(&["MemAvailable:"])
}

/// The sum of some lines of proc(5), meminfo, MB.
fn meminfo_mb(names: &[&str]) -> f64 {
    let text = fs::read_to_string("/proc/meminfo").expect("proc is mounted");
    let kibibytes = |name: &&str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        let number: f64 = number.expect("the kernel shows it");
        number
    };
    names.iter().map(kibibytes).sum::<f64>() * 1_024.0 / 1e6
}

fn report(session: &mut Session, id: &str, found: &Found) {
    let named = |table: &str| format!("{id}/{table}");
    let axis = Some("instances");
    let title = "64-byte frames of one instance, the last one, TAP to uplink, while the rest idle";
    let [mut time, rate] = found.one.tables((&named("one"), title), Rate::FRAMES, axis);
    for way in Way::ALL {
        time.note(format!("{}: {}", way.name(), way.about()));
    }
    session.add(time);
    session.add(rate);
    let title = "64-byte frames, TAP to uplink, spread over the instances";
    let [mut time, rate] = found
        .spread
        .tables((&named("spread"), title), Rate::FRAMES, axis);
    time.note(format!(
        "over all instances up to {SENDERS}, over {SENDERS} of them where there are more; each sends in turn, in a flow of its own"
    ));
    session.add(time);
    session.add(rate);
    let tables = [
        (
            ("create", "one more instance: TAP, address, rules"),
            ("ms", &found.create),
            "netagent: from the request to the answer that it runs; the others: the commands that their users run",
        ),
        (
            ("memory", "memory that a host takes"),
            ("MB", &found.memory),
            "the kernel's that it cannot give back (slabs, per processor, vmalloc, stacks), more than without the host, and what the agent has resident; once, as each host grew",
        ),
    ];
    for ((name, title), (unit, rows), note) in tables {
        let mut table = Table::new(&named(name), title, (unit, Better::Lower)).over("instances");
        for (way, size, figures) in rows {
            table.add_at(way, Some(*size as f64), figures);
        }
        table.note(note);
        session.add(table);
    }
}
