//! What a thousand instances with fifty names each take in memory, in the agent and in the kernel's tables.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{HashMap as BpfHash, Map, MapData};
use netagent_common::learned::{Learned, LearnedKey};
use netagent_common::names::{ABI_VERSION, map};
use serde_json::json;

use crate::dns::asker::{Asker, check, wait_any};
use crate::dns::configuration;
use crate::dns::zone::Zone;
use crate::figures::Figures;
use crate::report::{Better, Table};
use crate::session::Session;
use crate::start::fill;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, now};
use netagent_tests::guest::Nic;
use netagent_tests::tap::Header;
use netagent_tests::world::{UPLINK, World};

const INSTANCES: u32 = 1_000;
const NAMES: u16 = 50;
/// Queries of one guest that wait for an answer.
const WINDOW: u16 = 16;
/// The tables of what was learned.
const TABLES: [&str; 4] = [map::LEARNED_V4, map::LEARNED_V6, map::LED_TO, map::NAMES];

fn name(instance: u32, number: u16) -> String {
    format!("host-{number}.instance-{instance}.bench.example")
}

/// Each name leads elsewhere.
fn address(instance: u32, number: u16) -> Ipv4Addr {
    let index = instance * u32::from(NAMES) + u32::from(number);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(45, 64, 0, 0)) + index)
}

/// The address of what [`name`] says.
fn address_of(name: &str) -> Option<IpAddr> {
    let (host, rest) = name.strip_prefix("host-")?.split_once('.')?;
    let (instance, _) = rest.strip_prefix("instance-")?.split_once('.')?;
    Some(address(instance.parse().ok()?, host.parse().ok()?).into())
}

/// What is taken, MB of 1,000,000 bytes.
#[derive(Clone, Copy, Debug)]
struct Taken {
    agent: f64,
    resident: f64,
    tables: f64,
}

impl Taken {
    fn by(agent: &Agent) -> Self {
        let pid = agent.pid();
        let path = format!("/proc/{pid}/smaps_rollup");
        let sizes = fs::read_to_string(path).expect("the process runs");
        let tables = TABLES.iter().map(|name| {
            let table = pinned(agent, name);
            let descriptor = table.fd().as_fd().as_raw_fd();
            let shown = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}"));
            number(&shown.expect("an open descriptor"), "memlock:")
        });
        Self {
            agent: number(&sizes, "Pss:") * 1_024.0 / 1e6,
            resident: number(&sizes, "Rss:") * 1_024.0 / 1e6,
            tables: tables.sum::<f64>() / 1e6,
        }
    }

    /// Adds it to a table; what it is more than before.
    fn show(&self, table: &mut Table, what: &str, before: &Self) -> f64 {
        let more = self.agent - before.agent + self.tables - before.tables;
        table.add(what, &Figures::from_iter([more]));
        table.note(format!(
            "{what}: agent {:.1} (resident {:.1}), tables {:.1}",
            self.agent, self.resident, self.tables
        ));
        more
    }
}

fn number(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    let number = number.and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("the kernel shows {name} in {text}"))
}

fn pinned(agent: &Agent, name: &str) -> MapData {
    let version = agent.pins().path().join(format!("v{ABI_VERSION}"));
    MapData::from_pin(version.join(name)).expect("the agent pins it")
}

/// Fills an agent with instances and names.
///
/// # Panics
/// Where an answer is wrong, or what it leads to is not open.
pub(super) fn run(session: &mut Session) {
    let title = format!("memory that {INSTANCES} instances with {NAMES} names each take");
    let mut table = Table::new("dns/memory", &title, ("MB more", Better::Lower));
    let world = World::new();
    let zone = Zone::start(&world, |name, _| {
        (vec![address_of(name).expect("a name of ours")], 3_600)
    });
    let mut agent = Agent::prepare(&world.host, Some(UPLINK), &configuration());
    // What its start took and gave back would hide what is taken later.
    agent.set_env("MALLOC_TRIM_THRESHOLD_", "65536");
    agent.run();
    fill(&agent, INSTANCES);
    let askers = askers(&agent, &world);
    let before = Taken::by(&agent);
    before.show(&mut table, "without names", &before);
    for instance in 0..INSTANCES {
        let names: Vec<String> = (0..NAMES).map(|number| name(instance, number)).collect();
        let path = format!("/v1/instances/bench-{instance}/policy");
        let list = json!({ "allowed_domains": names });
        let answer = agent.api("PUT", &path, &list.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    Taken::by(&agent).show(&mut table, "with lists of names", &before);
    let began = now();
    for (instance, asker) in (0..).zip(&askers) {
        ask(asker, instance);
    }
    let took = began.elapsed().as_secs_f64();
    let queries = u64::from(INSTANCES) * u64::from(NAMES);
    assert_eq!(zone.asked(), queries);
    let learned = Map::from_map_data(pinned(&agent, map::LEARNED_V4)).expect("a table");
    let learned = BpfHash::<_, LearnedKey<[u8; 4]>, Learned>::try_from(learned).expect("its type");
    let open = learned.keys().filter(Result::is_ok).count();
    assert_eq!(open as u64, queries, "every address is open");
    let more = Taken::by(&agent).show(&mut table, "with what they led to", &before);
    table.note(format!(
        "{queries} queries in {took:.1} s, {open} addresses are open"
    ));
    session.add(table);
    session.goal(&format!("{title}, MB"), more, (Better::Lower, 40.0));
}

/// The guests of all instances, in order.
fn askers(agent: &Agent, world: &World) -> Vec<Asker> {
    let of = |instance: u32| {
        let shown = agent.inspect(&format!("bench-{instance}"));
        let nic = Nic::open(&world.host, &shown["network_interfaces"][0], Header::None);
        Asker::on(nic, None)
    };
    (0..INSTANCES).map(of).collect()
}

/// Asks for every name of an instance once.
fn ask(asker: &Asker, instance: u32) {
    let send = |number| asker.send(&asker.frame(number, &name(instance, number)));
    (0..WINDOW).for_each(send);
    let (mut sent, mut answers) = (WINDOW, 0);
    let end = now() + SOON;
    while answers < NAMES {
        wait_any(std::slice::from_ref(asker), end);
        assert!(now() < end, "every query is answered: {answers} of {sent}");
        while let Some(told) = asker.told() {
            let (name, address) = (name(instance, told.id), address(instance, told.id));
            check(&told, (&name, address));
            answers += 1;
            if sent < NAMES {
                send(sent);
                sent += 1;
            }
        }
    }
}
