//! kill -9 between any two steps and at random instants, under requests and traffic: nothing is lost or there
//! twice, and one TCP stream lives through all of it.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use netagent_tests::agent::{Agent, START_LIMIT};
use netagent_tests::deadline::{SOON, wait_for};
use netagent_tests::random::Random;
use netagent_tests::recovery::book::{Entry, Life, Request, Sent};
use netagent_tests::recovery::check::{check, settled};
use netagent_tests::recovery::pester::Pesterers;
use netagent_tests::recovery::witness::Witness;
use netagent_tests::world::{UPLINK, World};
use nix::libc::SIGKILL;
use serde_json::{Value, json};

/// A world with an agent, and the guest whose stream must live.
struct Stage {
    witness: Witness,
    entry: Entry,
    agent: Agent,
    world: World,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        let agent = world.agent("");
        let witness = Witness::start(&world, &agent);
        let entry = Entry::running(&witness.answer);
        Self {
            witness,
            entry,
            agent,
            world,
        }
    }

    fn check<'a>(&'a mut self, entries: impl IntoIterator<Item = &'a mut Entry>) {
        let all = entries.into_iter().chain([&mut self.entry]);
        check(&self.agent, (&self.world.host, UPLINK, &[]), all);
        self.witness.check();
    }
}

fn pool(name: &str, count: usize) -> Value {
    json!({ "name": name, "network_interfaces": vec![json!({}); count] })
}

fn custom(name: &str, ip: &str, tap_name: &str) -> Value {
    json!({ "name": name, "network_interfaces": [{ "ip": ip, "tap_name": tap_name }] })
}

/// The life of two instances: which one, and what is asked.
const SCRIPT: [(usize, Request); 6] = [
    (0, Request::Create),
    (1, Request::Create),
    (0, Request::Stop),
    (0, Request::Start),
    (1, Request::Delete),
    (0, Request::Delete),
];

/// More boundaries than a life has.
const BOUNDARIES_MAX: u32 = 1_000;

/// Asks until the agent is dead; true where it survived the whole script.
fn survives(agent: &Agent, script: &[(usize, Request)], entries: &mut [Entry]) -> bool {
    script.iter().all(|(index, request)| {
        matches!(
            entries[*index].send(&agent.socket(), *request),
            Sent::Acknowledged | Sent::Refused
        )
    })
}

/// Starts an agent that dies at a boundary and plays a script; true where it died.
fn dies_at(
    agent: &mut Agent,
    boundary: u32,
    (script, entries): (&[(usize, Request)], &mut [Entry]),
) -> bool {
    agent.kill_at(Some(boundary));
    agent.spawn();
    agent.kill_at(None);
    let ended = agent.serves_or_ended(START_LIMIT);
    if ended.is_none() && survives(agent, script, entries) {
        return false;
    }
    let status = wait_for("the agent dies", SOON, || agent.status());
    assert_eq!(status.signal(), Some(SIGKILL), "{}", agent.log());
    true
}

#[test]
fn the_agent_killed_at_every_boundary_of_a_life_brings_back_what_was_acknowledged() {
    let mut stage = Stage::new();
    let specs = [pool("x", 2), custom("y", "192.168.7.1/30", "vpc7")];
    let mut entries = specs.map(Entry::absent);
    let mut boundary = 1;
    stage.agent.kill9();
    while dies_at(&mut stage.agent, boundary, (&SCRIPT, &mut entries)) {
        stage.agent.run();
        stage.check(&mut entries);
        for entry in &mut entries {
            if entry.life() != Some(Life::Absent) {
                let sent = entry.send(&stage.agent.socket(), Request::Delete);
                assert_eq!(sent, Sent::Acknowledged, "boundary {boundary}");
            }
        }
        stage.agent.kill9();
        boundary += 1;
        assert!(boundary < BOUNDARIES_MAX, "the life never ends");
    }
    // A create alone has more: a TAP, its address, its programs, its records, and the commit.
    assert!(
        boundary > 40,
        "only {boundary} boundaries: a debug build has them, is NETAGENT_BIN one?"
    );
    stage.check(&mut entries);
    let exchanges = stage.witness.finish();
    eprintln!(
        "killed at {} boundaries, {exchanges} exchanges",
        boundary - 1
    );
}

/// Kills of the second test.
const KILLS: u32 = 200;

/// Longest time from a kill, or from the answer of the agent, to the next kill.
const INSTANT_MAX_MS: u32 = 150;

fn random_instant(random: &mut Random) -> Duration {
    Duration::from_micros(u64::from(random.below(INSTANT_MAX_MS * 1_000)))
}

/// Kills the agent under requests, now and then once more while it starts; the number of kills and of answers.
fn kill_under_requests(
    agent: &mut Agent,
    clients: &mut [(Vec<Entry>, Random)],
    random: &mut Random,
) -> (u32, u32) {
    let (socket, stop) = (agent.socket(), AtomicBool::new(false));
    thread::scope(|scope| {
        let pesterers = Pesterers::start(scope, &socket, clients, &stop);
        pesterers.go_on_for(random_instant(random));
        agent.kill9();
        let mut kills = 1;
        while random.chance(3) {
            agent.spawn();
            pesterers.go_on_for(2 * random_instant(random));
            agent.kill9();
            kills += 1;
        }
        stop.store(true, Ordering::Relaxed);
        (kills, pesterers.join())
    })
}

#[test]
fn killed_at_two_hundred_random_instants_under_traffic_nothing_is_lost_or_duplicated() {
    let mut stage = Stage::new();
    let both = json!([{}, { "ip": "10.8.0.9/24", "tap_name": "vpc3" }]);
    let specs = [
        vec![
            pool("a", 1),
            pool("b", 2),
            custom("c", "192.168.8.1/30", "vpc1"),
        ],
        vec![
            pool("d", 1),
            custom("e", "192.168.9.1/30", "vpc2"),
            json!({ "name": "f", "network_interfaces": both }),
        ],
    ];
    let mut seed = 0;
    let mut clients = specs.map(|specs| {
        seed += 1;
        let entries: Vec<Entry> = specs.into_iter().map(Entry::absent).collect();
        (entries, Random::new(seed))
    });
    let (mut random, mut kills, mut answers) = (Random::new(3), 0, 0);
    while kills < KILLS {
        let (killed, answered) = kill_under_requests(&mut stage.agent, &mut clients, &mut random);
        kills += killed;
        answers += answered;
        stage.agent.run();
        stage.check(clients.iter_mut().flat_map(|(entries, _)| entries));
    }
    assert!(answers > KILLS, "{answers} answers: it was killed idle");
    let exchanges = stage.witness.finish();
    eprintln!("{kills} kills, {answers} answers, {exchanges} exchanges");
}

#[test]
fn the_first_start_after_a_reboot_killed_at_every_boundary_is_finished_by_the_next_ones() {
    let world = World::new();
    let mut agent = world.agent("");
    let mut entries = [
        pool("x", 2),
        custom("y", "192.168.7.1/30", "vpc7"),
        pool("z", 1),
    ]
    .map(Entry::absent);
    for entry in &mut entries {
        let sent = entry.send(&agent.socket(), Request::Create);
        assert_eq!(sent, Sent::Acknowledged);
    }
    let sent = entries[2].send(&agent.socket(), Request::Stop);
    assert_eq!(sent, Sent::Acknowledged);
    agent.kill9();
    let mut boundary = 1;
    loop {
        agent.take_down();
        entries.iter_mut().for_each(Entry::expect_new_taps);
        let died = dies_at(&mut agent, boundary, (&[], &mut []));
        if !died {
            break;
        }
        agent.run();
        check(&agent, (&world.host, UPLINK, &[]), &mut entries);
        agent.kill9();
        boundary += 1;
        assert!(boundary < BOUNDARIES_MAX, "the start never ends");
    }
    assert!(boundary > 20, "only {boundary} boundaries");
    check(&agent, (&world.host, UPLINK, &[]), &mut entries);
}

/// The life of one instance.
const SHORT_SCRIPT: [(usize, Request); 4] = [
    (0, Request::Create),
    (0, Request::Stop),
    (0, Request::Start),
    (0, Request::Delete),
];

#[test]
fn a_tap_of_the_users_is_given_back_as_it_was_whenever_the_agent_is_killed() {
    let world = World::new();
    let mut agent = world.agent("");
    let host = &world.host;
    host.ip("tuntap add dev mine mode tap");
    host.ip("link set mine address 02:00:00:00:00:77 mtu 1400 alias of-the-user");
    let seen = || {
        let link = &host.json("ip -json link show dev mine")[0];
        let addresses = host.json("ip -json -4 address show dev mine");
        let v4 = addresses[0]["addr_info"].clone();
        let members = ["ifindex", "flags", "mtu", "address", "ifalias"];
        (members.map(|member| link[member].clone()), v4)
    };
    let before = seen();
    let mut entries = [Entry::absent(custom("lent", "192.168.11.1/30", "mine"))];
    let mut boundary = 1;
    agent.kill9();
    while dies_at(&mut agent, boundary, (&SHORT_SCRIPT, &mut entries)) {
        agent.run();
        let shown = settled(&agent);
        entries[0].settle(shown.first());
        if entries[0].life() != Some(Life::Absent) {
            let sent = entries[0].send(&agent.socket(), Request::Delete);
            assert_eq!(sent, Sent::Acknowledged, "boundary {boundary}");
        }
        assert_eq!(seen(), before, "boundary {boundary}");
        agent.kill9();
        boundary += 1;
        assert!(boundary < BOUNDARIES_MAX, "the life never ends");
    }
    assert!(boundary > 20, "only {boundary} boundaries");
    assert_eq!(seen(), before);
}
