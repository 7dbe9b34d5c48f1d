//! Policies of many networks: what they cost a packet, a new flow, and those who replace them under traffic.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::unistd::write;
use serde_json::json;

use crate::figures::{Figures, print_target};
use crate::flows;
use crate::load::Load;
use crate::path::{self, Cost, Flows, SHORT};
use crate::variant::{Kind, Variant};
use netagent_tests::agent::Agent;
use netagent_tests::deadline::now;
use netagent_tests::replacing::replace_under_traffic;

/// Networks of the lists that are compared.
const SIZES: [u32; 3] = [0, 1_000, 100_000];
/// Frames of one measurement.
const FRAMES: u32 = 400_000;
/// Frames before it.
const WARM_UP: u32 = 100_000;
/// Networks of a list that is replaced.
const REPLACED: u32 = 10_000;
/// Replacements whose time is measured, in each round.
const REPLACEMENTS: u32 = 10;
/// Replacements to an address that no version allows.
const NEVER: usize = 1_000;

/// Measures all of it, and prints the figures.
pub fn run(rounds: u32) {
    established(rounds);
    new_flows(rounds);
    replacing(rounds);
    never();
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
struct Compared([(Figures, Figures); SIZES.len()]);

impl Compared {
    fn measure(rounds: u32, mut measure: impl FnMut(usize) -> Cost) -> Self {
        let mut figures: [(Figures, Figures); SIZES.len()] = Default::default();
        for _ in 0..rounds {
            for (index, (wall, processor)) in figures.iter_mut().enumerate() {
                let cost = measure(index);
                wall.add(cost.wall);
                processor.add(cost.processor);
            }
        }
        Self(figures)
    }

    /// Prints all, and how many times the rate of no policy each size reaches at least.
    fn print(&self, what: &str, target: f64) {
        for (size, (wall, processor)) in SIZES.iter().zip(&self.0) {
            println!("  {size:7} networks {wall}  processor {processor}");
            println!(
                "    raw: wall {}; processor {}",
                wall.raw(),
                processor.raw()
            );
        }
        let [(wall, processor), others @ ..] = &self.0;
        for (size, other) in SIZES[1..].iter().zip(others) {
            for (name, none, some) in [
                ("wall clock", wall, &other.0),
                ("processor time", processor, &other.1),
            ] {
                let rate = none.median() / some.median();
                print_target(
                    &format!("{what} with {size} networks / with none, {name}"),
                    rate,
                    ('>', target),
                );
            }
        }
    }
}

fn established(rounds: u32) {
    println!("\n64-byte frames of an established flow, TAP to veth uplink, ns for each frame:");
    let mut ready = SIZES.map(|size| {
        let variant = prepare(size);
        let mut flows = Flows::udp(&variant.ends, 1, SHORT);
        path::establish(&variant, &mut flows);
        let mut load = Load::Up(flows);
        load.warm_up(&variant, WARM_UP);
        (variant, load)
    });
    let compared = Compared::measure(rounds, |index| {
        let (variant, load) = &mut ready[index];
        load.measure(variant, FRAMES)
    });
    compared.print("packets per second", 0.97);
}

fn new_flows(rounds: u32) {
    for is_v4 in [true, false] {
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        println!("\nnew flows of {family}, ns for each:");
        let compared = Compared::measure(rounds, |index| {
            flows::open_all(&prepare(SIZES[index]), is_v4)
        });
        compared.print(&format!("new flows per second, {family},"), 0.9);
    }
}

/// Replaces a policy of many networks by another one, while frames of a flow that both permit are written.
fn replacing(rounds: u32) {
    println!(
        "\nreplacing a policy of {REPLACED} networks under traffic, ms from request to answer:"
    );
    let variant = prepare(0);
    let mut flows = Flows::udp(&variant.ends, 1, SHORT);
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
    }
    println!("  {took}  raw: {}", took.raw());
    println!("  {frames} frames were written meanwhile");
    print_target("replacing, median, ms", took.median(), ('<', 50.0));
    print_target("frames lost", lost as f64, ('<', 0.0));
}

fn never() {
    println!("\n{NEVER} replacements under traffic to addresses that no version allows:");
    let seen = replace_under_traffic(NEVER);
    println!(
        "  {} frames sent at them, {} to permitted addresses, each of which arrived",
        seen.forbidden, seen.permitted
    );
    let mut took = Figures::default();
    seen.took
        .iter()
        .for_each(|time| took.add(time.as_secs_f64() * 1e3));
    println!("  ms for each replacement {took}");
    print_target("forbidden frames that left", seen.leaked as f64, ('<', 0.0));
}
