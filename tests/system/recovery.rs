//! Restart, reboot, and what others do to the agent's devices, its database and its disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread;
use std::time::Duration;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, now, wait_until};
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::recovery::book::{Entry, Request, Sent};
use netagent_tests::recovery::check::{check, settled};
use netagent_tests::recovery::database::{self, DATABASE};
use netagent_tests::recovery::disk::SmallDisk;
use netagent_tests::recovery::kernel;
use netagent_tests::recovery::witness::Witness;
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, UPLINK, World};
use serde_json::{Value, json};

use crate::exchange::{FlowTo, Protocol, Way};

const fn flow(index: usize, port: u16) -> FlowTo {
    FlowTo {
        protocol: Protocol::Udp,
        remote: SILENT[index],
        ports: (port, 53),
    }
}

/// Sends a packet to each remote and one back; the ports under which the world sees the flows.
fn check_flows(world: &World, nic: &Nic, port: u16) -> [u16; 2] {
    let wire = world.wire();
    let way = Way::new(world, nic, &wire);
    [0, 1].map(|index| way.check(flow(index, port)))
}

/// The first interface of an instance, opened as a VMM does.
fn open(world: &World, agent: &Agent, name: &str) -> Nic {
    let shown = agent.inspect(name);
    Nic::open(&world.host, &shown["network_interfaces"][0], Header::Vnet)
}

/// Instances of every kind: two that run, one of them with a custom interface, and one that is stopped.
fn every_kind(agent: &Agent) -> Vec<Entry> {
    let both = json!([{}, { "ip": "192.168.7.1/30", "tap_name": "vpc7" }]);
    let specs = [
        json!({ "name": "runs" }),
        json!({ "name": "mixed", "network_interfaces": both }),
        json!({ "name": "stopped" }),
    ];
    let mut entries: Vec<Entry> = specs.into_iter().map(Entry::absent).collect();
    for entry in &mut entries {
        assert_eq!(
            entry.send(&agent.socket(), Request::Create),
            Sent::Acknowledged
        );
    }
    let sent = entries[2].send(&agent.socket(), Request::Stop);
    assert_eq!(sent, Sent::Acknowledged);
    entries
}

#[test]
fn a_restart_keeps_everything_and_touches_no_tap() {
    let world = World::new();
    let mut agent = world.agent("");
    let mut entries = every_kind(&agent);
    world
        .host
        .ip("link add foreign0 type veth peer name foreign1");
    let surroundings = (&world.host, UPLINK, &["foreign0", "foreign1"][..]);
    check(&agent, surroundings, &mut entries);
    for end in [Agent::kill9, Agent::stop] {
        let before = kernel::lasting_links(&world.host);
        end(&mut agent);
        agent.run();
        check(&agent, surroundings, &mut entries);
        assert_eq!(
            kernel::lasting_links(&world.host),
            before,
            "a restart changes none"
        );
    }
}

#[test]
fn a_tap_that_a_vmm_holds_open_lives_through_restarts_with_its_flows() {
    for configuration in ["", "[datapath]\nattach = \"clsact\"\n"] {
        let world = World::new();
        let mut agent = world.agent(configuration);
        let guest = Guest::create(&agent, &world.host, "held", Header::Vnet);
        let ifindex = world.host.ifindex(&guest.nic().tap_name);
        let ports = check_flows(&world, guest.nic(), 8_000);
        for end in [Agent::kill9, Agent::stop] {
            end(&mut agent);
            assert_eq!(
                check_flows(&world, guest.nic(), 8_000),
                ports,
                "an old flow"
            );
            check_flows(&world, guest.nic(), 8_001);
            agent.run();
            assert_eq!(world.host.ifindex(&guest.nic().tap_name), ifindex);
            assert_eq!(
                check_flows(&world, guest.nic(), 8_000),
                ports,
                "an old flow keeps its port"
            );
            check_flows(&world, guest.nic(), 8_002);
        }
    }
}

/// Takes everything off the host that a reboot takes.
type Reboot = fn(&World, &Agent);

/// By the agent's own word.
fn down(_world: &World, agent: &Agent) {
    agent.take_down();
}

/// As a reboot does it: nobody is asked.
fn forget_by_hand(world: &World, agent: &Agent) {
    for link in kernel::links(&world.host) {
        if link.alias.is_some() && !link.leads_to_servers() {
            world.host.ip(&format!("link delete {}", link.name));
        }
    }
    let pins = agent.pins().path();
    for entry in fs::read_dir(pins).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    world
        .host
        .try_shell(&format!("tc qdisc delete dev {UPLINK} clsact"));
}

fn check_reboot(configuration: &str, reboot: Reboot) {
    let world = World::new();
    let mut agent = world.agent(configuration);
    let mut entries = every_kind(&agent);
    let is_tcx = configuration.is_empty();
    let before = settled(&agent);
    agent.stop();
    reboot(&world, &agent);
    let left: Vec<String> = world.host.links();
    assert_eq!(left, ["lo", UPLINK], "a reboot leaves no TAP");
    assert!(agent.pins().pins().is_empty(), "a reboot leaves no pin");
    agent.run();
    assert_eq!(settled(&agent), before, "everything is as it was");
    if is_tcx {
        check(&agent, (&world.host, UPLINK, &[]), &mut entries);
    }
    for name in ["runs", "mixed"] {
        check_flows(&world, &open(&world, &agent, name), 8_000);
    }
    let sent = entries[2].send(&agent.socket(), Request::Start);
    assert_eq!(sent, Sent::Acknowledged);
    check_flows(&world, &open(&world, &agent, "stopped"), 8_001);
}

#[test]
fn after_a_reboot_what_ran_runs_with_the_same_addresses_and_what_was_stopped_is_stopped() {
    for configuration in ["", "[datapath]\nattach = \"clsact\"\n"] {
        check_reboot(configuration, forget_by_hand);
    }
}

#[test]
fn what_down_removed_comes_back_with_the_next_start() {
    for configuration in ["", "[datapath]\nattach = \"clsact\"\n"] {
        check_reboot(configuration, down);
    }
}

#[test]
fn down_removes_everything_of_the_agent_and_nothing_else() {
    let world = World::new();
    let mut agent = world.agent("");
    let mut entries = every_kind(&agent);
    let host = &world.host;
    host.ip("link add foreign0 type veth peer name foreign1");
    host.ip("tuntap add dev tap-of-others mode tap");
    host.ip("link set foreign0 alias netagent:somebody:else");
    let others = ["foreign0", "foreign1", "tap-of-others"];
    let foreign = |link: &kernel::Link| others.contains(&link.name.as_str());
    let before: Vec<kernel::Link> = kernel::links(host).into_iter().filter(foreign).collect();
    agent.kill9();
    agent.take_down();
    let left = kernel::links(host);
    let names: Vec<&str> = left.iter().map(|link| link.name.as_str()).collect();
    let mut expected = vec!["lo", UPLINK];
    expected.extend(before.iter().map(|link| link.name.as_str()));
    assert_eq!(names, expected);
    assert_eq!(left.into_iter().filter(foreign).collect::<Vec<_>>(), before);
    assert_eq!(agent.pins().pins(), [""; 0].map(PathBuf::from));
    agent.run();
    for entry in &mut entries {
        // They were taken off the host, so their TAPs are new ones.
        entry.expect_new_taps();
    }
    check(&agent, (host, UPLINK, &others), &mut entries);
}

/// Time in which a TAP that others deleted is back.
const A_SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_tap_deleted_behind_the_agents_back_is_back_within_a_second_and_works() {
    for configuration in ["", "[datapath]\nattach = \"clsact\"\n"] {
        let world = World::new();
        let agent = world.agent(configuration);
        for round in 0..3_u16 {
            let name = format!("deleted-{round}");
            let guest = Guest::create(&agent, &world.host, &name, Header::Vnet);
            let tap_name = guest.nic().tap_name.clone();
            check_flows(&world, guest.nic(), 8_000);
            drop(guest);
            world.host.ip(&format!("link delete {tap_name}"));
            let deleted = now();
            wait_until("the TAP is back", A_SECOND, || {
                let links = world
                    .host
                    .try_shell(&format!("ip -json link show dev {tap_name}"));
                String::from_utf8_lossy(&links.stdout).contains("netagent:")
            });
            let took = deleted.elapsed();
            let nic = open(&world, &agent, &name);
            check_flows(&world, &nic, 8_000);
            check_flows(&world, &nic, 8_001);
            settled(&agent);
            eprintln!("back after {took:?}");
        }
    }
}

#[test]
fn a_foreign_device_on_a_reserved_name_is_named_and_left_alone_until_it_goes() {
    let world = World::new();
    let agent = world.agent("");
    let other = agent.create(&json!({ "name": "other" }));
    let host = &world.host;
    let waits = agent.create(&json!({ "name": "waits" }));
    assert_eq!(waits["network_interfaces"][0]["tap_name"], "tap1");
    let stopped = agent.api("PUT", "/v1/instances/waits/stop", "");
    assert_eq!(stopped.status, 200, "{stopped:?}");
    host.ip("link add tap1 type veth peer name tap1peer");
    let foreign = |host| {
        let links = kernel::links(host);
        links.into_iter().find(|link| link.name == "tap1").unwrap()
    };
    let before = foreign(host);
    let started = agent.api("PUT", "/v1/instances/waits/start", "");
    assert_eq!(started.status, 200, "{started:?}");
    assert_eq!(started.body["status"], "error", "{started:?}");
    let reason = started.body["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("tap1"), "the reason names it: {started:?}");
    let planned: Value = serde_json::from_str(&agent.cli("plan", &["--json"])).unwrap();
    assert!(
        planned["problems"].to_string().contains("tap1"),
        "the plan names it: {planned}"
    );
    assert_eq!(foreign(host), before, "it is not touched");
    check_flows(
        &world,
        &Nic::open(host, &other["network_interfaces"][0], Header::Vnet),
        8_000,
    );
    host.ip("link delete tap1");
    wait_until("the instance recovers by itself", SOON, || {
        agent.inspect("waits")["status"] == "running"
    });
    settled(&agent);
    check_flows(&world, &open(&world, &agent, "waits"), 8_001);
}

/// A way to make a database one that cannot be used, and words that the refusal says.
type Damage = (fn(&Path), &'static [&'static str]);

const DAMAGES: [Damage; 4] = [
    (
        |state| fs::write(state.join(DATABASE), vec![0x5a; 8_192]).unwrap(),
        &["damaged", "copy"],
    ),
    (
        |state| {
            // Its header is whole, its first pages are not.
            let mut bytes = fs::read(state.join(DATABASE)).unwrap();
            let length = bytes.len();
            bytes[4_096..length].fill(0x5a);
            fs::write(state.join(DATABASE), bytes).unwrap();
        },
        &["damaged", "copy"],
    ),
    (
        |state| database::set_version(state, 99),
        &["newer", "version 99", "install"],
    ),
    (
        |state| {
            fs::remove_file(state.join(DATABASE)).unwrap();
            database::make_foreign(state);
        },
        &["another program's", "copy"],
    ),
];

/// Every file of the database with what is in it.
fn files(state_dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(state_dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(DATABASE))
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_database_that_is_damaged_newer_or_anothers_is_refused_and_stays_as_it_is() {
    let world = World::new();
    let mut agent = world.agent("");
    let mut entries = every_kind(&agent);
    check(&agent, (&world.host, UPLINK, &[]), &mut entries);
    agent.stop();
    let state = agent.state_dir().to_owned();
    let whole = files(&state);
    let links = kernel::lasting_links(&world.host);
    for (damage, words) in DAMAGES {
        damage(&state);
        let damaged = files(&state);
        let output: Output = agent.run_to_end();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{complaint}");
        let path = state.join(DATABASE).display().to_string();
        for word in words.iter().chain([&path.as_str()]) {
            assert!(complaint.contains(word), "{word}: {complaint}");
        }
        for (path, bytes) in &damaged {
            let is_same = fs::read(path).unwrap() == *bytes;
            assert!(is_same, "{} is overwritten", path.display());
        }
        // To look at it, SQLite makes an index and an empty log where there are none.
        for (path, bytes) in files(&state) {
            let is_old = damaged.iter().any(|(old, _)| *old == path);
            let is_log = path.to_string_lossy().ends_with("-wal");
            assert!(is_old || !is_log || bytes.is_empty(), "{}", path.display());
        }
        assert_eq!(
            kernel::lasting_links(&world.host),
            links,
            "nothing is removed"
        );
        for (path, _) in files(&state) {
            fs::remove_file(path).unwrap();
        }
        for (path, bytes) in &whole {
            fs::write(path, bytes).unwrap();
        }
    }
    agent.run();
    check(&agent, (&world.host, UPLINK, &[]), &mut entries);
}

/// Creates until one is refused; what was created, and the refusal.
fn create_until_refused(agent: &Agent) -> (Vec<Entry>, netagent_tests::http::Answer) {
    let mut created = Vec::new();
    for number in 0..CREATES_MAX {
        let spec = json!({ "name": format!("full-{number}") });
        let answer = agent.api("POST", "/v1/instances", &spec.to_string());
        if answer.status >= 300 {
            return (created, answer);
        }
        created.push(Entry::running(&answer.body));
    }
    panic!("{CREATES_MAX} creates fit on a full disk");
}

/// More than fit into what the database holds in reserve.
const CREATES_MAX: u32 = 64;

#[test]
fn on_a_full_disk_requests_are_refused_and_the_agent_lives() {
    let disk = SmallDisk::mount(2_048);
    let world = World::new();
    let mut agent = Agent::prepare(&world.host, Some(UPLINK), "");
    agent.keep_state_in(&disk.path().join("state"));
    agent.run();
    let mut entries = every_kind(&agent);
    disk.fill();
    let (created, refused) = create_until_refused(&agent);
    entries.extend(created);
    assert_eq!(refused.status, 507, "{refused:?}");
    let message = refused.message();
    assert!(
        message.contains("nothing was changed") && message.contains(DATABASE),
        "{message}"
    );
    for (method, what) in [("PUT", "runs/stop"), ("DELETE", "runs")] {
        let refused = agent.api(method, &format!("/v1/instances/{what}"), "");
        assert_eq!(refused.status, 507, "{refused:?}");
    }
    check(&agent, (&world.host, UPLINK, &[]), &mut entries);
    check_flows(&world, &open(&world, &agent, "runs"), 8_000);
    disk.free();
    let mut late = Entry::absent(json!({ "name": "late" }));
    let sent = late.send(&agent.socket(), Request::Create);
    assert_eq!(sent, Sent::Acknowledged);
    entries.push(late);
    check(&agent, (&world.host, UPLINK, &[]), &mut entries);
    agent.kill9();
    agent.run();
    check(&agent, (&world.host, UPLINK, &[]), &mut entries);
}

#[test]
fn sixty_four_creates_at_once_give_sixty_four_of_everything() {
    let world = World::new();
    let mut agent = world.agent("");
    let socket = agent.socket();
    let mut entries: Vec<Entry> = (0..64)
        .map(|number| Entry::absent(json!({ "name": format!("many-{number}") })))
        .collect();
    let create = |entry: &mut Entry| entry.send(&socket, Request::Create);
    thread::scope(|scope| {
        let threads: Vec<_> = entries
            .iter_mut()
            .map(|entry| scope.spawn(|| create(entry)))
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Sent::Acknowledged);
        }
    });
    check(&agent, (&world.host, UPLINK, &[]), &mut entries);
    let rows = database::read(agent.state_dir());
    let places = rows.iter().flat_map(|row| &row.places);
    let mut slots: Vec<u32> = places.map(|place| place.slot).collect();
    slots.sort_unstable();
    assert_eq!(slots, (0..64).collect::<Vec<u32>>(), "the lowest ones");
    agent.kill9();
    agent.run();
    check(&agent, (&world.host, UPLINK, &[]), &mut entries);
}

#[test]
fn after_sigterm_the_datapath_goes_on_and_a_start_takes_over() {
    let world = World::new();
    let mut agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "goes-on", Header::Vnet);
    let mut entries = [Entry::running(&guest.answer)];
    let mut witness = Witness::start(&world, &agent);
    let mut stream = Entry::running(&witness.answer);
    let ports = check_flows(&world, guest.nic(), 8_000);
    agent.stop();
    assert!(!agent.socket().exists(), "it took its socket away");
    assert_eq!(check_flows(&world, guest.nic(), 8_000), ports, "old flows");
    check_flows(&world, guest.nic(), 8_001);
    witness.check();
    agent.run();
    check(
        &agent,
        (&world.host, UPLINK, &[]),
        entries.iter_mut().chain([&mut stream]),
    );
    assert_eq!(check_flows(&world, guest.nic(), 8_000), ports, "old flows");
    assert!(witness.finish() > 0);
}

#[test]
fn a_tap_with_one_of_its_programs_leaves_no_pin_when_it_goes() {
    let world = World::new();
    let agent = world.agent("");
    for program in ["from_vm", "to_vm"] {
        let mut entry = Entry::absent(json!({ "name": "half" }));
        let sent = entry.send(&agent.socket(), Request::Create);
        assert_eq!(sent, Sent::Acknowledged);
        let ifindex = world.host.ifindex("tap0");
        // As an agent leaves it that was killed between the two.
        let pins = agent.pins().pins();
        let pin = pins
            .iter()
            .find(|pin| pin.ends_with(format!("links/{ifindex}-{program}")));
        fs::remove_file(pin.unwrap()).unwrap();
        let sent = entry.send(&agent.socket(), Request::Delete);
        assert_eq!(sent, Sent::Acknowledged);
        check(&agent, (&world.host, UPLINK, &[]), [&mut entry]);
    }
}
