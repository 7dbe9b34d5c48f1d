//! Starts with many instances: with everything in place, and from nothing as after a reboot.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::figures::Figures;
use crate::memory::Memory;
use crate::report::{Better, Table};
use crate::session::Session;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::now;
use netagent_tests::world::World;

/// A round of a thousand starts takes its time.
const ROUNDS: u32 = 3;

/// What is there when the agent starts.
const CASES: [&str; 2] = ["in place", "from scratch"];

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

/// Fills agents, ends them and starts them again.
pub fn run(session: &mut Session) {
    measure(
        session,
        (MANY, session.rounds(ROUNDS)),
        [Some(2.0), Some(15.0)],
    );
    measure(session, (MOST, 1), [None, Some(60.0)]);
}

/// Starts in place and from scratch, and the seconds that each may take where that is said.
fn measure(session: &mut Session, (instances, rounds): (u32, u32), targets: [Option<f64>; 2]) {
    let bar = session.bar(&format!("starts with {instances} instances"), rounds);
    let world = World::new();
    let mut agent = world.agent("");
    let began = now();
    fill(&agent, instances);
    let filled = began.elapsed().as_secs_f64();
    let resident = Memory::of(agent.pid()).resident_mb;
    let longest = longest_answer(&agent);
    let mut figures: [[Figures; 2]; 2] = Default::default();
    for _ in 0..rounds {
        let [in_place, scratch] = &mut figures;
        agent.kill9();
        restart(&mut agent, instances, in_place);
        agent.stop();
        agent.take_down();
        restart(&mut agent, instances, scratch);
        bar.inc(1);
    }
    let id = format!("start/{instances}-instances");
    let title = format!("starts with {instances} instances until all run");
    let mut table = Table::new(&id, &title, ("s", Better::Lower));
    let title = format!("resident memory after starts with {instances} instances");
    let mut memory = Table::new(&format!("{id}/memory"), &title, ("MB", Better::Lower));
    for (what, [took, resident]) in CASES.into_iter().zip(&figures) {
        table.add(what, took);
        memory.add(what, resident);
    }
    table.note(format!(
        "created by {CLIENTS} clients in {filled:.1} s ({resident:.1} MB); longest answer in the {} s after that: {longest:.2} s",
        WATCHED.as_secs()
    ));
    session.add(table);
    session.add(memory);
    for ((what, [took, resident]), target) in CASES.into_iter().zip(&figures).zip(targets) {
        if let Some(target) = target {
            let title = format!("start with {instances} instances, {what}, s");
            session.goal(&title, took.median(), (Better::Lower, target));
        }
        if instances == MANY {
            let title = format!("resident memory of {instances} instances, {what}, MB");
            session.goal(&title, resident.median(), (Better::Lower, 60.0));
        }
    }
}

/// Starts the agent, and notes the seconds that it took and the memory that it has.
fn restart(agent: &mut Agent, instances: u32, [took, resident]: &mut [Figures; 2]) {
    took.add(start(agent, instances));
    resident.add(Memory::of(agent.pid()).resident_mb);
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
