//! The agent's own life: killed, started again, taken down, twice on one machine.

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::guest::Guest;
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, UPLINK, World};

use crate::exchange::{FlowTo, Protocol, Way};

const fn flow(index: usize, port: u16) -> FlowTo {
    FlowTo {
        protocol: Protocol::Udp,
        remote: SILENT[index],
        ports: (port, 53),
    }
}

/// Links of the host that are not its own.
fn taps(world: &World) -> Vec<String> {
    let mut links = world.host.links();
    let is_hosts = |name: &str| name == "lo" || name == UPLINK || name.starts_with("netagent-");
    links.retain(|name| !is_hosts(name));
    links.sort();
    links
}

#[test]
fn a_killed_agent_leaves_old_flows_and_new_ones_going() {
    for configuration in ["", "[datapath]\nattach = \"clsact\"\n"] {
        let world = World::new();
        let mut agent = world.agent(configuration);
        let guest = Guest::create(&agent, &world.host, "orphan", Header::Vnet);
        let wire = world.wire();
        let way = Way::new(&world, guest.nic(), &wire);
        let ports = [0, 1].map(|index| way.check(flow(index, 8_000)));
        agent.kill9();
        for (index, port) in ports.into_iter().enumerate() {
            assert_eq!(
                way.check(flow(index, 8_000)),
                port,
                "an old flow keeps its port"
            );
            way.check(flow(index, 8_001));
        }
        way.nic.tap.send_bytes(netagent_tests::packet::udp(
            &way.nic.to([169, 254, 169, 254]),
            (1, 80),
            b"still closed",
        ));
        way.check(flow(0, 8_002));
    }
}

#[test]
fn down_leaves_nothing() {
    for configuration in ["", "[datapath]\nattach = \"clsact\"\n"] {
        let world = World::new();
        let mut agent = world.agent(configuration);
        let guests = ["a", "b"].map(|name| Guest::create(&agent, &world.host, name, Header::None));
        assert!(!agent.pins().pins().is_empty());
        agent.stop();
        drop(guests);
        agent.cli("down", &[]);
        assert_eq!(taps(&world), [""; 0]);
        assert_eq!(agent.pins().pins(), [""; 0].map(std::path::PathBuf::from));
        let directory = agent.pins().path();
        assert!(!directory.exists(), "{} is left", directory.display());
        let filters = world
            .host
            .shell(&format!("tc filter show dev {UPLINK} ingress"));
        assert_eq!(filters, "");
        // Nothing is attached to the uplink any more: a guest's address is nothing special to it.
        let attached = world.host.shell(&format!("bpftool net show dev {UPLINK}"));
        assert!(!attached.contains("from_uplink"), "{attached}");
        agent.cli("down", &[]);
    }
}

#[test]
fn a_second_agent_on_the_same_directories_is_refused_and_disturbs_nothing() {
    let world = World::new();
    let first = world.agent("");
    let guest = Guest::create(&first, &world.host, "undisturbed", Header::Vnet);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    let port = way.check(flow(0, 8_000));
    let mut same_state = Agent::prepare(&world.host, Some(UPLINK), "");
    same_state.share_state(&first);
    let mut same_pins = Agent::prepare(&world.host, Some(UPLINK), "");
    same_pins.share_pins(&first);
    for (agent, flag) in [
        (&mut same_state, "--state-dir"),
        (&mut same_pins, "--bpf-dir"),
    ] {
        let output = agent.run_to_end();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(
            complaint.contains("another agent") && complaint.contains(flag),
            "{complaint}"
        );
        assert!(!agent.socket().exists(), "no socket is left");
        assert!(
            !agent.try_cli("down", &[]).status.success(),
            "nor does `down` touch it"
        );
        assert_eq!(
            way.check(flow(0, 8_000)),
            port,
            "the first one's guests go on"
        );
    }
}

#[test]
fn two_agents_in_two_namespaces_do_not_know_each_other() {
    let worlds = [World::new(), World::new()];
    let agents = [worlds[0].agent(""), worlds[1].agent("")];
    let guests = [0, 1]
        .map(|index| Guest::create(&agents[index], &worlds[index].host, "same", Header::Vnet));
    for index in [0, 1] {
        let wire = worlds[index].wire();
        let way = Way::new(&worlds[index], guests[index].nic(), &wire);
        way.check(flow(0, 8_000));
        way.check(flow(1, 8_000));
    }
    let [mut first, second] = agents;
    first.stop();
    first.cli("down", &[]);
    let wire = worlds[1].wire();
    Way::new(&worlds[1], guests[1].nic(), &wire).check(flow(0, 8_000));
    assert_eq!(second.inspect("same")["status"], "running");
}

#[test]
fn stop_start_and_delete_keep_and_release_what_was_reserved() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "cycled", Header::None);
    let reserved = guest.answer["network_interfaces"][0].clone();
    assert_eq!(
        agent.inspect("cycled")["network_interfaces"][0]["attached"],
        true
    );
    drop(guest);
    wait_until("the TAP is free", SOON, || {
        agent.inspect("cycled")["network_interfaces"][0]["attached"] == false
    });
    let stopped = agent.api("PUT", "/v1/instances/cycled/stop", "");
    assert_eq!(
        (stopped.status, &stopped.body["status"]),
        (200, &"stopped".into()),
        "{stopped:?}"
    );
    assert_eq!(taps(&world), [""; 0]);
    let other = agent.create(&serde_json::json!({ "name": "other" }));
    assert_eq!(
        other["network_interfaces"][0]["tap_name"], "tap1",
        "tap0 stays reserved"
    );
    let started = agent.api("PUT", "/v1/instances/cycled/start", "");
    assert_eq!(
        (started.status, &started.body["status"]),
        (200, &"running".into()),
        "{started:?}"
    );
    for member in ["tap_name", "ip", "ip6", "mac", "tap_ip"] {
        assert_eq!(
            started.body["network_interfaces"][0][member], reserved[member],
            "{member}"
        );
    }
    for name in ["cycled", "other"] {
        assert!(
            agent
                .api("DELETE", &format!("/v1/instances/{name}"), "")
                .status
                < 300
        );
        assert_eq!(
            agent
                .api("GET", &format!("/v1/instances/{name}"), "")
                .status,
            404
        );
    }
    assert_eq!(taps(&world), [""; 0]);
    assert_eq!(
        agent.create(&serde_json::json!({}))["network_interfaces"][0]["tap_name"],
        "tap0"
    );
}

#[test]
fn the_plan_after_every_change_is_empty() {
    let world = World::new();
    let agent = world.agent("");
    let empty = |agent: &Agent| {
        let plan = agent.cli("plan", &["--json"]);
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        assert_eq!(plan["steps"], serde_json::json!([]), "{plan}");
    };
    empty(&agent);
    drop(Guest::create(&agent, &world.host, "planned", Header::None));
    empty(&agent);
    assert!(agent.api("DELETE", "/v1/instances/planned", "").status < 300);
    empty(&agent);
}
