//! From the API call to a running instance, and what the agent keeps in memory.

use std::fs;

use serde_json::json;

use crate::bench::figures::{Figures, print_target};
use crate::deadline::now;
use crate::world::World;

const INSTANCES: u32 = 200;

/// Creates and deletes instances, and prints the figures.
///
/// # Panics
/// When an instance does not run.
pub fn run() {
    let world = World::new();
    let agent = world.agent("");
    println!("\n{INSTANCES} instances, one after the other, ms for each:");
    let memory_at_start = resident_mb(agent.pid());
    let mut created = Figures::default();
    for number in 0..INSTANCES {
        let spec = json!({ "name": format!("bench-{number}") });
        let started = now();
        let answer = agent.create(&spec);
        created.add(started.elapsed().as_secs_f64() * 1e3);
        assert_eq!(answer["status"], "running");
    }
    let memory = resident_mb(agent.pid());
    let mut deleted = Figures::default();
    for number in 0..INSTANCES {
        let started = now();
        let answer = agent.api("DELETE", &format!("/v1/instances/bench-{number}"), "");
        deleted.add(started.elapsed().as_secs_f64() * 1e3);
        assert!(answer.status < 300, "{answer:?}");
    }
    for (what, figures) in [("create to running", &created), ("delete", &deleted)] {
        let (p90, p99) = (figures.quantile(0.9), figures.quantile(0.99));
        println!("  {what:18} {figures}  p90 {p90:.2}  p99 {p99:.2}");
    }
    println!(
        "  resident memory, MB: {memory_at_start:.1} without instances, {memory:.1} with {INSTANCES}"
    );
    print_target("create to running, p50, ms", created.median(), ('<', 5.0));
    print_target("resident memory, MB", memory, ('<', 30.0));
}

fn resident_mb(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse().ok());
    let kilobytes: f64 = kilobytes.expect("the kernel shows it");
    kilobytes / 1e3
}
