//! A policy outlives the agent that wrote it, and a refused one changes nothing of how traffic is judged.

use std::net::IpAddr;

use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::guest::Guest;
use netagent_tests::name_server::{ask_udp, question};
use netagent_tests::packet;
use netagent_tests::talk::Talk;
use netagent_tests::tap::Header;
use netagent_tests::world::{World, server_v4, server_v6};
use serde_json::{Value, json};

use super::site::{DENY_ALL, Fate, boot, check_fate, drops, put, serve, told};

fn servers() -> [IpAddr; 4] {
    [
        server_v4(0).into(),
        server_v6(0).into(),
        server_v4(1).into(),
        server_v6(1).into(),
    ]
}

const FIRST_ALONE: &str = r#"{"allowed_cidrs": ["203.0.113.1/32", "2001:db8:200::1/128"]}"#;
const FATES: [Fate; 4] = [Fate::Answered, Fate::Answered, Fate::Refused, Fate::Refused];

#[test]
fn a_policy_holds_while_the_agent_is_dead_and_when_it_is_back() {
    let world = World::new();
    let mut agent = world.agent("");
    let _servers = serve(&world.outside, &servers());
    let stack = boot(&world, &agent, &told(json!({ "name": "a" })));
    put(&agent, "a", FIRST_ALONE);
    let mut talk = Talk::open(&stack.netns, server_v4(0).into());
    let check = || {
        for (server, fate) in servers().into_iter().zip(FATES) {
            check_fate(&stack.netns, server, fate);
        }
    };
    check();
    agent.kill9();
    check();
    talk.exchange();
    agent.run();
    check();
    talk.exchange();
    agent.stop();
    check();
    agent.run();
    check();
    talk.exchange();
    let plan = agent.api("GET", "/v1/plan", "").body;
    assert_eq!(plan["steps"], json!([]));
    put(&agent, "a", DENY_ALL);
    check_fate(&stack.netns, servers()[0], Fate::Refused);
}

/// What no request may say.
const WRONG: [&str; 12] = [
    "",
    "[]",
    "{",
    r#"{"network_policy": "allow"}"#,
    r#"{"network_policy": "custom"}"#,
    r#"{"network_policy": "deny-all", "denied_cidrs": []}"#,
    r#"{"allowed_cidrs": ["0.0.0.0"]}"#,
    r#"{"allowed_cidrs": ["203.0.113.0/33"]}"#,
    r#"{"allowed_cidrs": ["::/129"]}"#,
    r#"{"allowed_cidrs": ["::ffff:203.0.113.2/128", "0.0.0.0/0"]}"#,
    r#"{"allowed_cidrs": ["0.0.0.0/0"], "colour": "red"}"#,
    r#"{"allowed_cidrs": "0.0.0.0/0"}"#,
];

#[test]
fn traffic_is_judged_as_before_when_a_new_policy_is_refused() {
    let world = World::new();
    let agent = world.agent("");
    let _servers = serve(&world.outside, &servers());
    let stack = boot(&world, &agent, &told(json!({ "name": "a" })));
    put(&agent, "a", FIRST_ALONE);
    let shown = || -> Value {
        let shown = agent.inspect("a");
        json!([
            shown["network_policy"],
            shown["allowed_cidrs"],
            shown["denied_cidrs"],
            shown["audit"]
        ])
    };
    let before = shown();
    let mut talk = Talk::open(&stack.netns, server_v4(0).into());
    for body in WRONG {
        let answer = agent.api("PUT", "/v1/instances/a/policy", body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert_eq!(shown(), before, "{body}");
        talk.exchange();
        check_fate(&stack.netns, servers()[2], Fate::Refused);
    }
    for (server, fate) in servers().into_iter().zip(FATES) {
        check_fate(&stack.netns, server, fate);
    }
}

#[test]
fn d2_names_are_dropped_under_deny_all_and_refused_under_allowed_networks() {
    const REFUSED: u8 = 5;
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "a", Header::Vnet);
    put(&agent, "a", DENY_ALL);
    for is_v4 in [true, false] {
        let before = drops(&agent, "a", "deny_all");
        let ends = guest.nic().to(guest.nic().gateway(is_v4));
        let query = packet::udp(&ends, (9_000, 53), &question(7, "example.net"));
        guest.nic().tap.send_bytes(query);
        wait_until("the query is dropped", SOON, || {
            drops(&agent, "a", "deny_all") == before + 1
        });
    }
    let stack = boot(
        &world,
        &agent,
        &json!({ "name": "b", "allowed_cidrs": ["0.0.0.0/0"] }),
    );
    let gateway = agent.inspect("b")["gateway"].as_str().unwrap().to_owned();
    let gateway: IpAddr = gateway.parse().unwrap();
    let reply = ask_udp(&stack.netns, (gateway, 53), "example.net").unwrap();
    assert_eq!(reply.code, REFUSED);
}
