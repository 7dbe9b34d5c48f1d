//! Starts with many instances: with everything in place, and from nothing as after a reboot.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::figures::{Figures, print_target};
use crate::memory::Memory;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::now;
use netagent_tests::world::World;

/// Clients that fill an agent.
const CLIENTS: u32 = 16;

/// Instances of most figures.
const MANY: u32 = 1_000;
/// Instances that one agent must carry.
const MOST: u32 = 4_096;

/// Longer than from one full round of the agent to the next.
const WATCHED: Duration = Duration::from_secs(35);

/// Longest start that is waited for.
const LIMIT: Duration = Duration::from_secs(300);

/// Fills agents, ends them and starts them again, and prints the figures.
pub fn run(rounds: u32) {
    let (in_place, scratch) = measure(MANY, rounds);
    print_target("1,000 in place, median, s", in_place.median(), ('<', 2.0));
    print_target(
        "1,000 from scratch, median, s",
        scratch.median(),
        ('<', 15.0),
    );
    let (_, scratch) = measure(MOST, 1);
    print_target("4,096 from scratch, s", scratch.median(), ('<', 60.0));
}

/// Seconds of starts in place and from scratch.
fn measure(instances: u32, rounds: u32) -> (Figures, Figures) {
    println!("\n{instances} instances, s from the start of the process until all run:");
    let world = World::new();
    let mut agent = world.agent("");
    let began = now();
    fill(&agent, instances);
    let filled = began.elapsed().as_secs_f64();
    println!(
        "  created by {CLIENTS} clients in {filled:.1} s: {}",
        Memory::of(agent.pid())
    );
    let longest = longest_answer(&agent);
    println!("  longest answer in {WATCHED:?} after that, s: {longest:.2}");
    let (mut in_place, mut scratch) = (Figures::default(), Figures::default());
    let mut memory = [Memory::of(agent.pid()); 2];
    for _ in 0..rounds {
        agent.kill9();
        in_place.add(start(&mut agent, instances));
        memory[0] = Memory::of(agent.pid());
        agent.stop();
        agent.take_down();
        scratch.add(start(&mut agent, instances));
        memory[1] = Memory::of(agent.pid());
    }
    for (what, figures, memory) in [
        ("in place", &in_place, memory[0]),
        ("from scratch", &scratch, memory[1]),
    ] {
        println!("  {what:12} {}  memory {memory}", figures.raw());
        if instances == MANY {
            let what = format!("resident memory, {what}, MB");
            print_target(&what, memory.resident_mb, ('<', 60.0));
        }
    }
    (in_place, scratch)
}

/// Seconds of the longest answer while the agent looks at everything by itself, and follows what came before.
fn longest_answer(agent: &Agent) -> f64 {
    let mut longest = 0.0_f64;
    let until = now() + WATCHED;
    while now() < until {
        let asked = now();
        let answer = agent.api("GET", "/healthz", "");
        assert_eq!(answer.status, 200, "{answer:?}");
        longest = longest.max(asked.elapsed().as_secs_f64());
        thread::park_timeout(Duration::from_millis(20));
    }
    longest
}

/// Creates so many instances by several clients.
///
/// # Panics
/// When one does not run.
pub fn fill(agent: &Agent, instances: u32) {
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                for number in (client..instances).step_by(CLIENTS as usize) {
                    let answer = agent.create(&json!({ "name": format!("bench-{number}") }));
                    assert_eq!(answer["status"], "running");
                }
            });
        }
    });
}

/// Starts the agent; seconds until it serves and all instances run.
fn start(agent: &mut Agent, instances: u32) -> f64 {
    let started = now();
    agent.spawn();
    if let Some(status) = agent.serves_or_ended(LIMIT) {
        panic!("the agent ended ({status:?}):\n{}", agent.log());
    }
    let answer = agent.api("GET", "/v1/instances", "");
    let took = started.elapsed().as_secs_f64();
    let listed = answer.body.as_array().expect("the API lists");
    let running = listed.iter().filter(|one| one["status"] == "running");
    assert_eq!(running.count(), instances as usize, "{}", agent.log());
    took
}
