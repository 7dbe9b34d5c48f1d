//! The agent stopped, killed and replaced by another build while a guest's traffic goes on (S-3): what gets lost.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use crate::figures::Figures;
use crate::report::{Better, Table};
use crate::session::Session;
use netagent_tests::agent::{Agent, binary};
use netagent_tests::guest::Guest;
use netagent_tests::numbered::Numbered;
use netagent_tests::rebuilt::{programs, rebuild};
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{UPLINK, World, server_v4};

const ROUNDS: u32 = 3;
/// Datagrams a second in each direction.
const RATE: u32 = 5_000;
/// Before the agent ends, after it has ended, and after another one serves.
const BETWEEN: Duration = Duration::from_millis(300);
/// What is done to it: name, how it ends, and whether another build follows.
type Case = (&'static str, fn(&mut Agent), bool);

const CASES: [Case; 3] = [
    ("stopped and started", Agent::stop, false),
    ("killed and started", Agent::kill9, false),
    ("another build", Agent::stop, true),
];

/// What one case did.
struct Seen {
    lost: u64,
    sent: u64,
    longest_pause: Duration,
}

/// Measures each case in turn, each round in new namespaces.
pub fn run(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("replacement", rounds * CASES.len() as u32);
    let mut lost: [Figures; 3] = Default::default();
    let mut pauses: [Figures; 3] = Default::default();
    let (mut all_lost, mut all_sent) = (0, 0);
    for _ in 0..rounds {
        for (index, (_, end, is_rebuilt)) in CASES.into_iter().enumerate() {
            let seen = measure(end, is_rebuilt);
            lost[index].add(seen.lost as f64);
            pauses[index].add(seen.longest_pause.as_secs_f64() * 1e3);
            all_lost += seen.lost;
            all_sent += seen.sent;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let both = [
        (
            "replace/lost",
            "Datagrams lost while the agent ends and another one starts",
            "datagrams",
            &lost,
        ),
        (
            "replace/pause",
            "Longest time in which none arrived meanwhile",
            "ms",
            &pauses,
        ),
    ];
    for (id, title, unit, figures) in both {
        let mut table = Table::new(id, title, (unit, Better::Lower));
        for ((case, ..), figures) in CASES.iter().zip(figures) {
            table.add(&format!("netagent, {case}"), figures);
        }
        table.note(format!("{RATE} numbered datagrams a second in each direction, {all_sent} in all. Another build: its programs have other instructions, and replaced those of the one before where they run."));
        session.add(table);
    }
    let what = "datagrams lost while the agent is replaced under load";
    session.goal(what, all_lost as f64, (Better::Lower, 0.0));
}

fn measure(end: fn(&mut Agent), is_rebuilt: bool) -> Seen {
    let world = World::new();
    let mut agent = world.agent("");
    let next = if is_rebuilt {
        rebuild(agent.directory())
    } else {
        binary()
    };
    let mut guest = Guest::create(&agent, &world.host, "busy", Header::Vnet);
    let tap_name = guest.nic().tap_name.clone();
    let stack = Stack::boot(guest.nics.remove(0), 1_500);
    let server = SocketAddr::new(IpAddr::V4(server_v4(0)), 9_000);
    let traffic = Numbered::start(&stack.netns, (&world.outside, server), RATE);
    let attached = || [UPLINK, &tap_name].map(|device| programs(&world.host, device));
    let before = attached();
    thread::sleep(BETWEEN);
    end(&mut agent);
    thread::sleep(BETWEEN);
    agent.replace_binary(&next);
    agent.run();
    thread::sleep(BETWEEN);
    for (before, after) in before.iter().flatten().zip(attached().iter().flatten()) {
        // One of the same build goes on with the programs that are there.
        assert_eq!(before.0 != after.0, is_rebuilt, "the program was replaced");
        assert_eq!(before.1 != after.1, is_rebuilt, "its instructions differ");
    }
    let outcomes = traffic.finish();
    for outcome in &outcomes {
        assert_eq!(outcome.twice, 0, "{outcome:?}");
    }
    let pauses = outcomes.iter().map(|outcome| outcome.longest_pause);
    Seen {
        lost: outcomes.iter().map(|outcome| outcome.lost).sum(),
        sent: outcomes.iter().map(|outcome| outcome.sent).sum(),
        longest_pause: pauses.max().unwrap_or_default(),
    }
}
