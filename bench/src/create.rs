//! From the API call to a running instance: one after the other at a steady pace, and many at once.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::figures::{Figures, print_target};
use crate::memory::Memory;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::now;
use netagent_tests::world::World;

/// Time from one create to the next: twenty in a second.
const PACE: Duration = Duration::from_millis(50);

/// Creates at once.
const BURST: u32 = 64;

/// Bursts, each after the instances of the one before were deleted.
const BURSTS: u32 = 5;

/// Creates and deletes instances, and prints the figures; with the RCU grace periods expedited, and fewer without.
pub fn run() {
    for (expedite_rcu, instances) in [(true, 200), (false, 60)] {
        let world = World::new();
        let agent = world.agent(&format!("[datapath]\nexpedite_rcu = {expedite_rcu}\n"));
        println!("\nexpedite_rcu = {expedite_rcu}:");
        measure_pace(&agent, instances);
        measure_burst(&agent);
    }
}

/// One create after the other, then one delete after the other.
fn measure_pace(agent: &Agent, instances: u32) {
    println!("  {instances} instances, 20 creates per second, ms for each:");
    let before = Memory::of(agent.pid());
    let (mut created, mut deleted) = (Figures::default(), Figures::default());
    let mut due = now();
    for number in 0..instances {
        wait_until(due);
        due += PACE;
        let spec = json!({ "name": format!("bench-{number}") });
        let started = now();
        let answer = agent.create(&spec);
        created.add(started.elapsed().as_secs_f64() * 1e3);
        assert_eq!(answer["status"], "running");
    }
    let after = Memory::of(agent.pid());
    for number in 0..instances {
        let started = now();
        delete(agent, &format!("bench-{number}"));
        deleted.add(started.elapsed().as_secs_f64() * 1e3);
    }
    for (what, figures) in [("create to running", &created), ("delete", &deleted)] {
        let (p90, p99) = (figures.quantile(0.9), figures.quantile(0.99));
        println!("  {what:18} {figures}  p90 {p90:.2}  p99 {p99:.2}");
    }
    println!("  memory without instances: {before}; with {instances}: {after}");
    print_target("create to running, p50, ms", created.median(), ('<', 5.0));
    let p99 = created.quantile(0.99);
    print_target("create to running, p99, ms", p99, ('<', 20.0));
}

/// Many creates at once, several times.
fn measure_burst(agent: &Agent) {
    let mut bursts = Figures::default();
    for _ in 0..BURSTS {
        bursts.add(burst(agent));
        for number in 0..BURST {
            delete(agent, &format!("burst-{number}"));
        }
    }
    println!(
        "  {BURST} creates at once, s until all run: {}",
        bursts.raw()
    );
    print_target("burst, median, s", bursts.median(), ('<', 1.0));
}

/// Seconds until all run.
fn burst(agent: &Agent) -> f64 {
    let barrier = Barrier::new(BURST as usize + 1);
    thread::scope(|scope| {
        for number in 0..BURST {
            let barrier = &barrier;
            scope.spawn(move || {
                let spec = json!({ "name": format!("burst-{number}") });
                barrier.wait();
                agent.create(&spec)
            });
        }
        barrier.wait();
        now()
    })
    .elapsed()
    .as_secs_f64()
}

fn delete(agent: &Agent, name: &str) {
    let answer = agent.api("DELETE", &format!("/v1/instances/{name}"), "");
    assert!(answer.status < 300, "{answer:?}");
}

fn wait_until(due: Instant) {
    while let Some(left) = due
        .checked_duration_since(now())
        .filter(|left| !left.is_zero())
    {
        thread::park_timeout(left);
    }
}
