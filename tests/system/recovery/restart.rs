//! Restart and reboot: what runs goes on, and what ran comes back.

use std::fs;
use std::path::PathBuf;

use netagent_tests::agent::Agent;
use netagent_tests::guest::Guest;
use netagent_tests::recovery::book::{Entry, Request, Sent};
use netagent_tests::recovery::check::{check, settled};
use netagent_tests::recovery::kernel;
use netagent_tests::recovery::witness::Witness;
use netagent_tests::tap::Header;
use netagent_tests::world::{UPLINK, World};

use crate::recovery::{check_flows, every_kind, open};

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
