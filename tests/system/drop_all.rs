//! `drop_all` on real TAPs: under `deny-all`, and against guests that flood.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{Deadline, SOON, wait_until};
use netagent_tests::dhcp::Client;
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::packet::{self, Packet, udp};
use netagent_tests::ping::ping;
use netagent_tests::raw::Raw;
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, World};
use serde_json::{Value, json};

use crate::gateway::{check_echo, check_resolution};

/// The ten seconds that flows have, and a loaded machine's own.
const SETTLED: Duration = Duration::from_secs(25);
const PATH: &str = "/v1/instances/held/policy";

/// Id of the XDP program on a TAP.
fn xdp(world: &World, tap: &str) -> Option<u64> {
    let link = world.host.json(&format!("ip -json link show dev {tap}"));
    link[0]["xdp"]["prog"]["id"].as_u64()
}

fn wait_attached(world: &World, agent: &Agent) {
    wait_until("drop_all is attached", SETTLED, || {
        assert!(!agent.log().contains("drop_all cannot"), "{}", agent.log());
        xdp(world, "tap0").is_some()
    });
}

fn replace(agent: &Agent, policy: &Value) {
    let answer = agent.api("PUT", PATH, &policy.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn dropped(agent: &Agent, reason: &str) -> u64 {
    let drops = agent.drops("held");
    drops.get(reason).copied().unwrap_or(0)
}

/// Sends to the world from a port of its own; whether it arrives.
fn check_world(nic: &Nic, wire: &Raw, (is_open, mark): (bool, u16)) {
    for remote in SILENT {
        let bytes = udp(&nic.to(remote), (mark, 5_000), &mark.to_be_bytes());
        nic.tap.send_bytes(bytes);
    }
    let is_it = |bytes: &[u8]| {
        let packet = Packet::parse(bytes)?;
        (packet.payload == mark.to_be_bytes()).then_some(())
    };
    if is_open {
        for _ in SILENT {
            wire.receive_where(Deadline::after(SOON), |received| {
                is_it(&received.frame.bytes)
            });
        }
    } else {
        // What the gateway answers was sent after it: nothing of it is under way any more.
        check_echo(nic);
        while let Some(received) = wire.receive_now() {
            assert_eq!(is_it(&received.frame.bytes), None, "it left");
        }
    }
}

fn deny() -> Value {
    json!({ "network_policy": "deny-all" })
}

fn check_life(configuration: &str, header: Header) {
    let world = World::new();
    let mut agent = world.agent(configuration);
    let guest = Guest::create(&agent, &world.host, "held", header);
    let (nic, wire) = (guest.nic(), world.wire());
    check_world(nic, &wire, (true, 1));
    replace(&agent, &deny());
    wait_attached(&world, &agent);
    let before = dropped(&agent, "deny_all");
    check_world(nic, &wire, (false, 2));
    assert_eq!(dropped(&agent, "deny_all"), before + SILENT.len() as u64);
    check_resolution(nic);
    let _given = Client::new(nic).take(7);
    // A killed agent leaves it as it is, and the next one finds nothing to do.
    agent.kill9();
    check_world(nic, &wire, (false, 3));
    agent.run();
    assert!(xdp(&world, "tap0").is_some());
    let plan = agent.api("GET", "/v1/plan", "").body;
    assert_eq!(plan, json!({"steps": [], "problems": []}));
    check_world(nic, &wire, (false, 4));
    replace(&agent, &json!({}));
    assert_eq!(xdp(&world, "tap0"), None);
    check_world(nic, &wire, (true, 5));
    // The idle device has it still, and so this time it takes no time to attach.
    assert!(xdp(&world, "netagent-idle").is_some());
    replace(&agent, &deny());
    wait_attached(&world, &agent);
    // What others take off comes back.
    agent.delete("held");
    let links = format!("{:?}", agent.pins().pins());
    assert!(
        !links.contains("tap") && !links.contains("65536-drop_all"),
        "{links}"
    );
    agent.stop();
    agent.take_down();
    assert_eq!(world.host.find_ifindex("netagent-idle"), None);
}

#[test]
fn deny_all_comes_to_the_tap_and_goes_with_the_policy() {
    check_life("", Header::Vnet);
}

#[test]
fn deny_all_comes_to_the_tap_where_filters_are_in_blocks() {
    check_life("[datapath]\nattach = \"clsact\"\n", Header::None);
}

#[test]
fn under_deny_all_the_host_pings_its_guest() {
    let world = World::new();
    let agent = world.agent("");
    let spec = json!({ "name": "held", "network_policy": "deny-all" });
    let mut guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    let nic = guest.nics.remove(0);
    let addresses = [IpAddr::V4(nic.v4), IpAddr::V6(nic.v6)];
    let gateways = [nic.gateway(true), nic.gateway_v4.into()];
    wait_attached(&world, &agent);
    let stack = Stack::boot(nic, 1_500);
    for address in addresses {
        ping(&world.host, address, (3, 1_000)).unwrap();
    }
    for gateway in gateways {
        ping(&stack.netns, gateway, (3, 1_000)).unwrap();
    }
    assert!(xdp(&world, "tap0").is_some());
}

#[test]
fn a_published_port_keeps_it_off_and_taking_the_port_back_brings_it() {
    let world = World::new();
    let agent = world.agent("");
    let spec = json!({ "name": "held", "network_policy": "deny-all", "publish": ["8080:80"] });
    let _guest = Guest::create_from(&agent, &world.host, &spec, Header::None);
    let publish = |list: Value| {
        let body = json!({ "publish": list, "exposed_ports": [] }).to_string();
        let answer = agent.api("PUT", "/v1/instances/held/publish", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    publish(json!([]));
    wait_attached(&world, &agent);
    publish(json!(["8080:80"]));
    assert_eq!(xdp(&world, "tap0"), None);
}

/// Sends without pause until it is told to stop.
fn flood(nic: &Nic, stop: &AtomicBool) {
    let bytes = udp(&nic.to(SILENT[0]), (4_000, 5_000), b"flood");
    while !stop.load(Ordering::Relaxed) {
        nic.tap.send_bytes(bytes.clone());
    }
}

#[test]
fn a_guest_that_floods_is_cut_off_until_it_is_quiet() {
    let world = World::new();
    let mut agent = world.agent("[policy]\nquarantine_pps = 3000\n");
    let guest = Guest::create(&agent, &world.host, "held", Header::Vnet);
    let (nic, wire) = (guest.nic(), world.wire());
    check_world(nic, &wire, (true, 1));
    let status = |agent: &Agent| agent.inspect("held")["status"].as_str().unwrap().to_owned();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| flood(nic, &stop));
        let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until("the guest is held", SOON, || status(&agent) == "error");
            assert!(xdp(&world, "tap0").is_some());
            let reason = agent.inspect("held")["reason"].to_string();
            assert!(reason.contains("policy.quarantine_pps is 3000"), "{reason}");
            agent.kill9();
            agent.run();
            assert_eq!(status(&agent), "error", "{}", agent.log());
            let before = dropped(&agent, "quarantine");
            wait_until("drops are counted", SOON, || {
                dropped(&agent, "quarantine") > before
            });
        }));
        stop.store(true, Ordering::Relaxed);
        held.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    // Not even the gateway answers.
    let request = packet::echo_request(&nic.to(nic.gateway_v4), (9, 2), b"held");
    let before = dropped(&agent, "quarantine");
    nic.tap.send_bytes(request);
    assert_eq!(dropped(&agent, "quarantine"), before + 1);
    wait_until("the guest is free", SETTLED, || status(&agent) == "running");
    assert_eq!(xdp(&world, "tap0"), None);
    while wire.receive_now().is_some() {}
    check_world(nic, &wire, (true, 2));
    let log = agent.log();
    assert!(
        log.contains("the guest floods") && log.contains("quiet again"),
        "{log}"
    );
}
