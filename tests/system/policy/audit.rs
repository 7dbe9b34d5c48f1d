//! Audit mode (P-14): what the policy would drop is counted and passes.

use std::net::IpAddr;

use netagent_tests::agent::Agent;
use netagent_tests::talk::Talk;
use netagent_tests::world::{World, server_v4, server_v6};
use serde_json::json;

use super::site::{Fate, boot, check_fate, put, serve};

/// What was only counted, for a reason.
fn audited(agent: &Agent, reason: &str) -> u64 {
    let shown = agent.inspect("a");
    let interface = &shown["network_interfaces"][0];
    assert_eq!(shown["audited"], interface["audited"], "of one interface");
    interface["audited"][reason].as_u64().unwrap_or_default()
}

/// Policy without `audit`, and the reason that it would drop for.
const CASES: [(&str, &str); 3] = [
    (r#""network_policy": "deny-all""#, "deny_all"),
    (r#""allowed_cidrs": []"#, "not_allowed"),
    (r#""denied_cidrs": ["0.0.0.0/0", "::/0"]"#, "denied_cidr"),
];

#[test]
fn p14_audit_counts_what_the_policy_would_drop_and_lets_it_pass() {
    let world = World::new();
    let agent = world.agent("");
    let servers: [IpAddr; 2] = [server_v4(0).into(), server_v6(0).into()];
    let _servers = serve(&world.outside, &servers);
    let stack = boot(&world, &agent, &json!({ "name": "a" }));
    let drops = agent.guest_drops("a");
    for (policy, reason) in CASES {
        put(&agent, "a", &format!("{{{policy}, \"audit\": true}}"));
        for server in servers {
            let before = audited(&agent, reason);
            check_fate(&stack.netns, server, Fate::Answered);
            let counted = audited(&agent, reason) - before;
            assert!(counted >= 3, "{reason}: TCP, UDP and echo, but {counted}");
        }
    }
    assert_eq!(agent.guest_drops("a"), drops, "nothing was dropped");
    let shown = agent.cli("inspect", &["a"]);
    assert!(shown.contains("AUDIT WOULD DROP BECAUSE"), "{shown}");

    // Taking audit back enforces it, for flows too that passed under it.
    let mut talk = Talk::open(&stack.netns, servers[0]);
    let counted = audited(&agent, "denied_cidr");
    put(&agent, "a", &format!("{{{}}}", CASES[2].0));
    assert!(talk.try_exchange().is_err(), "the flow ends");
    check_fate(&stack.netns, servers[0], Fate::Refused);
    assert_eq!(audited(&agent, "denied_cidr"), counted);
}

#[test]
fn an_instance_on_the_slot_of_another_begins_without_what_was_counted_for_it() {
    let world = World::new();
    let agent = world.agent("");
    let server: IpAddr = server_v4(0).into();
    let _servers = serve(&world.outside, &[server]);
    let spec = json!({ "name": "a", "network_policy": "deny-all", "audit": true });
    let stack = boot(&world, &agent, &spec);
    check_fate(&stack.netns, server, Fate::Answered);
    assert!(audited(&agent, "deny_all") >= 3);
    drop(stack);
    agent.delete("a");
    let _stack = boot(&world, &agent, &spec);
    assert_eq!(audited(&agent, "deny_all"), 0);
}
