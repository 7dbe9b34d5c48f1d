//! What denies waits for nothing: an uplink that cannot be attached keeps no policy out of force.

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::http;
use netagent_tests::netns::join_by_veth;
use netagent_tests::second_uplink::{BOTH, SECOND, SECOND_FAR_END};
use netagent_tests::world::{World, server_v4, server_v6};
use serde_json::json;

use super::site::{Fate, boot, check_fate, serve, told};

/// Gives the host its second uplink, with filters of somebody else's in front: none of the agent's can be set there.
fn plug_in_blocked(world: &World) {
    let host = &world.host;
    join_by_veth((host, "spare0"), (&world.outside, SECOND_FAR_END));
    host.shell("tc qdisc add dev spare0 ingress_block 77 clsact");
    for change in ["down", &format!("name {SECOND}")] {
        host.ip(&format!("link set spare0 {change}"));
    }
    host.ip(&format!("link set {SECOND} up"));
}

/// The command line replaces the policy, and says where it may not be in force.
fn check_change(agent: &Agent, policy: &str, code: i32) {
    let output = agent.say(&["network", "a", "--network-policy", policy]);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let complaint = String::from_utf8_lossy(&output.stderr);
    let told = ["a: attach from_uplink to uplink1", "may not be in force"];
    for text in told {
        assert_eq!(complaint.contains(text), code != 0, "{complaint}");
    }
    assert!(!output.stdout.is_empty(), "it shows what is stored");
}

#[test]
fn a_policy_is_in_force_at_once_where_an_uplink_cannot_be_attached() {
    let world = World::new();
    let configuration = "[datapath]\nattach = \"clsact\"\n";
    let mut agent = Agent::prepare(&world.host, Some(BOTH), configuration);
    agent.spawn();
    let health = || http::request(&agent.socket(), "GET", "/healthz", "").ok();
    let is_told = |text: &str| {
        health().is_some_and(|answer| answer.status == 503 && answer.message().contains(text))
    };
    wait_until("it serves", SOON, || is_told("uplink 'uplink1' is gone"));
    let servers = [server_v4(0).into(), server_v6(0).into()];
    let _servers = serve(&world.outside, &servers);
    let stack = boot(&world, &agent, &told(json!({ "name": "a" })));
    plug_in_blocked(&world);
    wait_until("it is blocked", SOON, || {
        is_told("attach from_uplink to uplink1")
    });
    let check = |fate| {
        let fates = servers.iter();
        fates.for_each(|server| check_fate(&stack.netns, *server, fate));
    };
    check(Fate::Answered);
    check_change(&agent, "deny-all", 1);
    check(Fate::Refused);
    let shown = agent.inspect("a");
    let reason = shown["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("attach from_uplink"), "{shown}");
    // What opens waits.
    let made = agent.api("POST", "/v1/instances", r#"{"name": "b"}"#);
    assert_eq!((made.status, &made.body["status"]), (201, &json!("error")));
    assert_eq!(world.host.find_ifindex("tap1"), None);
    world
        .host
        .shell(&format!("tc qdisc delete dev {SECOND} clsact"));
    wait_until("both run", SOON, || {
        ["a", "b"].map(|name| agent.inspect(name)["status"] == "running") == [true, true]
    });
    check(Fate::Refused);
    check_change(&agent, "allow-all", 0);
    check(Fate::Answered);
    assert_eq!(health().map(|answer| answer.status), Some(200));
}
