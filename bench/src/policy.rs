//! Policies of many networks: what they cost a packet, a new flow, and those who replace them under traffic.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use indicatif::ProgressBar;
use nix::unistd::write;
use serde_json::json;

use crate::figures::Figures;
use crate::flows;
use crate::path::{self, Cost, Flows};
use crate::report::{Better, Table};
use crate::session::Session;
use crate::variant::{Kind, Variant};
use crate::ways::Time;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::now;
use netagent_tests::replacing::replace_under_traffic;

/// Networks of the lists that are compared.
const SIZES: [u32; 3] = [0, 1_000, 100_000];
/// Frames of one measurement.
const FRAMES: u32 = 400_000;
/// Frames before it.
const WARM_UP: u32 = 100_000;
/// Rounds of a full run.
const ROUNDS: u32 = 7;
/// Networks of a list that is replaced.
const REPLACED: u32 = 10_000;
/// Replacements whose time is measured, in each round.
const REPLACEMENTS: u32 = 10;
/// Replacements to an address that no version allows.
const NEVER: usize = 1_000;

/// Measures all of it.
pub fn run(session: &mut Session) {
    established(session);
    new_flows(session);
    replacing(session);
    never(session);
}

/// A denied list of so many networks, half of them of each family: all beside those that frames go to, so that the search
/// for these is deep. Two versions have no network in common.
fn body(count: u32, version: u32) -> String {
    let network = |number: u32| {
        let (index, high, low) = (number / 2, number >> 9 & 255, number >> 1 & 255);
        if number & 1 == 0 {
            format!("203.{high}.{low}.128/{}", 25 + version)
        } else {
            format!("2001:db8:200:{:x}:8000::/{}", 1 + index, 65 + version)
        }
    };
    let denied: Vec<String> = (0..count).map(network).collect();
    json!({ "denied_cidrs": denied }).to_string()
}

fn put(agent: &Agent, body: &str) {
    let answer = agent.api("PUT", "/v1/instances/bench/policy", body);
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// A way with a policy of so many networks; none has none.
fn prepare(count: u32) -> Variant {
    let variant = Variant::prepare(Kind::Netagent);
    if count > 0 {
        put(agent(&variant), &body(count, 0));
    }
    variant
}

fn agent(variant: &Variant) -> &Agent {
    variant.agent.as_ref().expect("it is netagent's way")
}

/// What every size cost, round by round.
struct Compared([[Figures; 2]; SIZES.len()]);

impl Compared {
    fn measure(bar: &ProgressBar, mut measure: impl FnMut(usize) -> Cost) -> Self {
        let mut figures: [[Figures; 2]; SIZES.len()] = Default::default();
        for _ in 0..bar.length().unwrap_or(1) {
            for (index, [wall, processor]) in figures.iter_mut().enumerate() {
                let cost = measure(index);
                wall.add(cost.wall);
                processor.add(cost.processor);
            }
            bar.inc(1);
        }
        Self(figures)
    }

    /// Adds a table for either time, and how many times the rate of no policy each size reaches at least.
    fn judge(&self, session: &mut Session, (id, title): (&str, &str), target: f64) {
        for (index, time) in Time::ALL.into_iter().enumerate() {
            let title = format!("{title}, {}", time.name());
            let mut table = Table::new(&time.id(id), &title, ("ns", Better::Lower));
            for (size, figures) in SIZES.iter().zip(&self.0) {
                table.add(&format!("{size} networks"), &figures[index]);
            }
            session.add(table);
            let [none, others @ ..] = &self.0;
            for (size, other) in SIZES[1..].iter().zip(others) {
                session.goal(
                    &format!("{title}: rate with {size} networks / with none"),
                    none[index].median() / other[index].median(),
                    (Better::Higher, target),
                );
            }
        }
    }
}

fn established(session: &mut Session) {
    let bar = session.bar("established flows under policies", session.rounds(ROUNDS));
    let mut ready = SIZES.map(|size| {
        let variant = prepare(size);
        let mut flows = Flows::udp(&variant.ends, 1);
        path::establish(&variant, &mut flows);
        path::measure(&variant, &mut flows, WARM_UP);
        (variant, flows)
    });
    let count = session.count(FRAMES);
    let compared = Compared::measure(&bar, |index| {
        let (variant, flows) = &mut ready[index];
        path::measure(variant, flows, count)
    });
    let title = "64-byte frames of an established flow under a policy, guest to uplink";
    compared.judge(session, ("policy/established", title), 0.97);
}

fn new_flows(session: &mut Session) {
    for is_v4 in [true, false] {
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        let bar = session.bar("new flows under policies", session.rounds(ROUNDS));
        let compared =
            Compared::measure(&bar, |index| flows::open_all(&prepare(SIZES[index]), is_v4));
        let id = format!("policy/flows/{}", family.to_lowercase());
        let title = format!("new flows of {family} under a policy, guest to uplink");
        compared.judge(session, (&id, &title), 0.9);
    }
}

/// Replaces a policy of many networks by another one, while frames of a flow that both permit are written.
fn replacing(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("policies replaced under traffic", rounds);
    let variant = prepare(0);
    let mut flows = Flows::udp(&variant.ends, 1);
    path::establish(&variant, &mut flows);
    let frame = flows.frame(0);
    let bodies = [0, 1].map(|version| body(REPLACED, version));
    let (mut took, mut frames, mut lost) = (Figures::default(), 0, 0);
    for _ in 0..rounds {
        let before = variant.arrived();
        let is_over = AtomicBool::new(false);
        let written = thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let mut written = 0_u64;
                while !is_over.load(Ordering::Relaxed) {
                    write(variant.tap.file(), frame).expect("the TAP takes frames");
                    written += 1;
                }
                written
            });
            for number in 0..REPLACEMENTS {
                let started = now();
                put(agent(&variant), &bodies[number as usize % 2]);
                took.add(started.elapsed().as_secs_f64() * 1e3);
            }
            is_over.store(true, Ordering::Relaxed);
            writing.join().expect("the writer does not panic")
        });
        frames += written;
        lost += written.saturating_sub(variant.arrived() - before);
        bar.inc(1);
    }
    let title = format!("a policy of {REPLACED} networks replaced under traffic");
    let mut table = Table::new("policy/replacing", &title, ("ms", Better::Lower));
    table.add("request to answer", &took);
    table.note(format!(
        "{frames} frames were written meanwhile; {lost} were lost"
    ));
    session.add(table);
    session.goal(
        &format!("{title}, ms"),
        took.median(),
        (Better::Lower, 50.0),
    );
    let what = format!("{title}: frames lost");
    session.goal(&what, lost as f64, (Better::Lower, 0.0));
}

fn never(session: &mut Session) {
    let seen = replace_under_traffic(NEVER);
    let title = format!("{NEVER} replacements under traffic to addresses that no version allows");
    let mut table = Table::new("policy/never", &title, ("ms", Better::Lower));
    let took = seen.took.iter().map(|time| time.as_secs_f64() * 1e3);
    table.add("each replacement", &took.collect());
    table.note(format!(
        "{} frames sent at them, {} to permitted addresses, each of which arrived",
        seen.forbidden, seen.permitted
    ));
    session.add(table);
    let what = format!("{title}: forbidden frames that left");
    session.goal(&what, seen.leaked as f64, (Better::Lower, 0.0));
}
