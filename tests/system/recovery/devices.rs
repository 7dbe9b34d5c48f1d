//! What others, or a kill, do to the agent's devices and pins.

use std::fs;
use std::time::Duration;

use netagent_tests::deadline::{SOON, now, wait_until};
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::recovery::book::{Entry, Request, Sent};
use netagent_tests::recovery::check::{check, settled};
use netagent_tests::recovery::kernel;
use netagent_tests::tap::Header;
use netagent_tests::world::{UPLINK, World};
use serde_json::{Value, json};

use crate::recovery::{check_flows, open};

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
