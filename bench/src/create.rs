//! From the API call to a running instance: one after the other at a steady pace, and many at once.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::figures::Figures;
use crate::memory::Memory;
use crate::report::{Better, Table};
use crate::session::Session;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::now;
use netagent_tests::world::World;

/// Time from one create to the next: twenty in a second.
const PACE: Duration = Duration::from_millis(50);

/// Creates at once.
const BURST: u32 = 64;

/// Bursts, each after the instances of the one before were deleted.
const BURSTS: u32 = 5;

/// Creates and deletes instances; with the RCU grace periods expedited, and fewer without.
pub fn run(session: &mut Session) {
    let cases: &[(bool, u32)] = if session.is_quick() {
        &[(true, 200)]
    } else {
        &[(true, 200), (false, 60)]
    };
    for &(expedite_rcu, instances) in cases {
        let world = World::new();
        let agent = world.agent(&format!("[datapath]\nexpedite_rcu = {expedite_rcu}\n"));
        let case = if expedite_rcu {
            ("create/expedited", "grace periods expedited")
        } else {
            ("create/plain", "grace periods as they are")
        };
        measure_pace(session, &agent, (case, session.count(instances)));
        measure_burst(session, &agent, case);
    }
}

/// One create after the other, then one delete after the other.
fn measure_pace(
    session: &mut Session,
    agent: &Agent,
    ((id, case), instances): ((&str, &str), u32),
) {
    let bar = session.bar("creates and deletes at a steady pace", 2 * instances);
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
        bar.inc(1);
    }
    let after = Memory::of(agent.pid());
    for number in 0..instances {
        let started = now();
        delete(agent, &format!("bench-{number}"));
        deleted.add(started.elapsed().as_secs_f64() * 1e3);
        bar.inc(1);
    }
    let title = format!("20 creates a second, then deletes, {case}");
    let mut table = Table::new(&format!("{id}/pace"), &title, ("ms", Better::Lower));
    table.add("create to running", &created);
    table.add("delete", &deleted);
    let (before, after) = (before.resident_mb, after.resident_mb);
    table.note(format!(
        "{instances} instances; resident memory {before:.1} MB before, {after:.1} MB with all of them"
    ));
    session.add(table);
    for (name, value, target) in [
        ("p50", created.median(), 5.0),
        ("p99", created.quantile(0.99), 20.0),
    ] {
        let what = format!("create to running, {case}, {name}, ms");
        session.goal(&what, value, (Better::Lower, target));
    }
}

/// Many creates at once, several times.
fn measure_burst(session: &mut Session, agent: &Agent, (id, case): (&str, &str)) {
    let bursts = session.rounds(BURSTS);
    let bar = session.bar("many creates at once", bursts);
    let mut took = Figures::default();
    for _ in 0..bursts {
        took.add(burst(agent));
        for number in 0..BURST {
            delete(agent, &format!("burst-{number}"));
        }
        bar.inc(1);
    }
    let title = format!("{BURST} creates at once until all run, {case}");
    let mut table = Table::new(&format!("{id}/burst"), &title, ("s", Better::Lower));
    table.add("all of them", &took);
    session.add(table);
    session.goal(&format!("{title}, s"), took.median(), (Better::Lower, 1.0));
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
