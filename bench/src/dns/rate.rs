//! How many answers that it holds the resolver gives in a second of one core.

use std::fs;
use std::net::Ipv4Addr;

use nix::unistd::{SysconfVar, sysconf};
use serde_json::json;

use crate::dns::agent;
use crate::dns::asker::{Asker, check, wait_any};
use crate::dns::zone::Zone;
use crate::figures::Figures;
use crate::report::{Better, Table};
use crate::session::Session;
use netagent_tests::deadline::{SOON, now};
use netagent_tests::world::World;

/// Guests that ask: each may ask so often in a second.
const GUESTS: usize = 16;
/// Rounds of a full run.
const ROUNDS: u32 = 7;
/// Queries of one guest that wait for an answer.
const WINDOW: u16 = 4;
/// Answers to one guest in one round: at the rate that is reached, no guest asks so fast that it is slowed down.
const ANSWERS: u32 = 6_250;
/// Names that are asked for.
const NAMES: u16 = 16;

fn name(id: u16) -> String {
    format!("n{}.bench.example", id % NAMES)
}

fn address(id: u16) -> Ipv4Addr {
    let [high, low] = (id % NAMES).to_be_bytes();
    Ipv4Addr::new(45, 64, high, low)
}

/// Asks as fast as answers come.
pub(super) fn run(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("DNS answers from the cache", rounds);
    let world = World::new();
    let zone = Zone::start(&world, |name, _| {
        let number = name.trim_start_matches('n').split('.').next();
        let number = number.and_then(|number| number.parse().ok());
        (vec![address(number.expect("a name of ours")).into()], 3_600)
    });
    let agent = agent(&world);
    let askers: Vec<Asker> = (0..GUESTS)
        .map(|number| {
            let name = format!("asks-{number}");
            let spec = json!({ "name": name, "allowed_domains": ["*.bench.example"] });
            Asker::create(&agent, &world.host, (&spec, None))
        })
        .collect();
    ask(&askers, u32::from(NAMES));
    let asked = zone.asked();
    let (mut of_core, mut wall) = (Figures::default(), Figures::default());
    for _ in 0..rounds {
        let (started, before) = (now(), processor_seconds(agent.pid()));
        let answers = f64::from(ask(&askers, ANSWERS));
        of_core.add(answers / (processor_seconds(agent.pid()) - before));
        wall.add(answers / started.elapsed().as_secs_f64());
        bar.inc(1);
    }
    assert_eq!(zone.asked(), asked, "all were cached");
    let title = format!("DNS answers from the cache, {GUESTS} guests");
    let mut table = Table::new("dns/rate", &title, ("answers/s", Better::Higher));
    table.add("of the agent's processor time", &of_core);
    table.add("by the clock on the wall", &wall);
    session.add(table);
    let what = "DNS answers a second of one core";
    session.goal(what, of_core.median(), (Better::Higher, 30_000.0));
}

/// Asks so often for each guest, and waits for the answers; how many there were.
fn ask(askers: &[Asker], of_each: u32) -> u32 {
    // Built beforehand, so that guests leave the machine to the agent.
    let frames: Vec<Vec<Vec<u8>>> = askers
        .iter()
        .map(|asker| (0..NAMES).map(|id| asker.frame(id, &name(id))).collect())
        .collect();
    let names: Vec<String> = (0..NAMES).map(name).collect();
    let send = |index: usize, sent: &mut u32| {
        if *sent < of_each {
            askers[index].send(&frames[index][(*sent % u32::from(NAMES)) as usize]);
            *sent += 1;
        }
    };
    let mut sent: Vec<u32> = vec![0; askers.len()];
    for (index, sent) in sent.iter_mut().enumerate() {
        (0..WINDOW).for_each(|_| send(index, sent));
    }
    let wanted = of_each * askers.len() as u32;
    let mut answers = 0;
    while answers < wanted {
        let before = answers;
        for (index, sent) in sent.iter_mut().enumerate() {
            while let Some(told) = askers[index].told() {
                check(&told, (&names[usize::from(told.id)], address(told.id)));
                answers += 1;
                send(index, sent);
            }
        }
        if answers == before {
            let end = now() + SOON;
            wait_any(askers, end);
            assert!(now() < end, "{answers} of {wanted} were answered");
        }
    }
    answers
}

/// Time that a process had of the processors, s.
fn processor_seconds(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name of the program may hold blanks; it ends at the last parenthesis. See proc(5).
    let (_, fields) = text.rsplit_once(')').expect("the name is in parentheses");
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).expect("Linux has it");
    ticks / per_second.expect("Linux has it") as f64
}
