//! What is asked for and shown: refusals leave what is in force, and what is in force outlives the agent.

use netagent_tests::agent::Agent;
use netagent_tests::world::World;
use serde_json::{Value, json};

/// Members that say policy and limits.
const MEMBERS: [&str; 8] = [
    "network_policy",
    "allowed_domains",
    "allowed_cidrs",
    "denied_cidrs",
    "audit",
    "bandwidth",
    "bandwidth_in",
    "limits",
];

fn in_force(agent: &Agent) -> Value {
    let shown = agent.inspect("a");
    let present = MEMBERS.iter().filter_map(|name| {
        let value = shown.get(*name)?;
        Some(((*name).to_owned(), value.clone()))
    });
    Value::Object(present.collect())
}

fn check_refused(agent: &Agent, (part, body): (&str, &str), (status, message): (u16, &str)) {
    for prefix in ["/v1/instances", "/machines"] {
        let answer = agent.api("PUT", &format!("{prefix}/a/{part}"), body);
        assert_eq!(answer.status, status, "{part} {body:.200}: {answer:?}");
        assert!(
            answer.message().contains(message),
            "{part} {body:.200}: {answer:?}"
        );
    }
}

fn replace(agent: &Agent, part: &str, body: &str) {
    let answer = agent.api("PUT", &format!("/v1/instances/a/{part}"), body);
    assert_eq!(answer.status, 200, "{part} {body}: {answer:?}");
}

/// Part, body, status and text.
const REFUSED: &[(&str, &str, u16, &str)] = &[
    ("policy", "{", 400, "Malformed JSON"),
    (
        "policy",
        r#"{"audit": true, "audit": false}"#,
        400,
        "Duplicate member 'audit'",
    ),
    (
        "policy",
        r#"{"allowed_cidrs": ["0.0.0.0"]}"#,
        400,
        "Invalid CIDR format: \"0.0.0.0\"",
    ),
    (
        "policy",
        r#"{"allowed_cidrs": ["::"]}"#,
        400,
        "Invalid CIDR format: \"::\"",
    ),
    (
        "policy",
        r#"{"denied_cidrs": ["1.2.3/8"]}"#,
        400,
        "Invalid CIDR format: \"1.2.3/8\"",
    ),
    (
        "policy",
        r#"{"denied_cidrs": ["::ffff:1.2.3.4/128"]}"#,
        400,
        "Invalid CIDR format",
    ),
    (
        "policy",
        r#"{"denied_cidrs": ["::/129"]}"#,
        400,
        "Invalid CIDR prefix length: 129",
    ),
    (
        "policy",
        r#"{"network_policy": "custom"}"#,
        400,
        "needs allowed_domains",
    ),
    (
        "policy",
        r#"{"network_policy": "deny-all", "allowed_cidrs": []}"#,
        400,
        "Cannot combine",
    ),
    (
        "policy",
        r#"{"allowed_domains": ["example.org", "*"]}"#,
        400,
        "Invalid domain: \"*\"",
    ),
    (
        "policy",
        r#"{"network_policy": "deny-all", "allowed_domains": []}"#,
        400,
        "Cannot combine",
    ),
    (
        "policy",
        r#"{"bandwidth": 9}"#,
        400,
        "Unknown member 'bandwidth'",
    ),
    (
        "policy",
        r#"{"nameserver": "192.0.2.1"}"#,
        409,
        "Network interfaces cannot be changed after creation",
    ),
    (
        "limits",
        r#"{"bandwidth": "101gbit"}"#,
        400,
        "Invalid value '101gbit'",
    ),
    (
        "limits",
        r#"{"limits": {"pps": 0}}"#,
        400,
        "Invalid value '0' of member 'pps'",
    ),
    (
        "limits",
        r#"{"limits": {"flows": 8193}}"#,
        409,
        "limits.flows of the configuration",
    ),
    (
        "limits",
        r#"{"denied_cidrs": []}"#,
        400,
        "Unknown member 'denied_cidrs'",
    ),
];

#[test]
fn what_is_refused_leaves_the_old_policy_in_force_to_the_last_byte() {
    let world = World::new();
    let agent = world.agent("");
    agent.create(
        &json!({ "name": "a", "allowed_domains": ["*.example.org", "example.com"],
        "allowed_cidrs": ["10.0.0.0/8", "2001:db8::/32"], "denied_cidrs": ["10.1.0.0/16"], "audit": true, "bandwidth": 5 }),
    );
    let before = in_force(&agent);
    assert_eq!(before["network_policy"], "custom");
    let steps = || agent.api("GET", "/v1/plan", "").body["steps"].clone();
    let mut many = vec!["192.0.2.0/24"; 100_001];
    let too_many = json!({ "denied_cidrs": many }).to_string();
    many.truncate(99_999);
    many.push("192.0.2.0/33");
    let last_is_wrong = json!({ "denied_cidrs": many }).to_string();
    let long = [
        (
            "policy",
            &*last_is_wrong,
            400,
            "Invalid CIDR prefix length: 33",
        ),
        (
            "policy",
            &too_many,
            400,
            "Member 'denied_cidrs' has 100001 entries, and may have 100000",
        ),
    ];
    for (part, body, status, message) in REFUSED.iter().copied().chain(long) {
        check_refused(&agent, (part, body), (status, message));
        assert_eq!(in_force(&agent), before, "{part} {body:.200}");
    }
    assert_eq!(steps(), json!([]));
}

#[test]
fn policy_and_limits_outlive_the_agent_and_a_restart_of_the_instance() {
    let world = World::new();
    let mut agent = world.agent("");
    agent.create(&json!({ "name": "a" }));
    replace(
        &agent,
        "policy",
        r#"{"allowed_cidrs": ["10.1.2.3/8", "10.0.0.0/8"]}"#,
    );
    replace(
        &agent,
        "limits",
        r#"{"bandwidth_in": "1.5mbit", "limits": {"flows": 7}}"#,
    );
    let before = in_force(&agent);
    let expected = json!({ "network_policy": "custom", "allowed_cidrs": ["10.0.0.0/8"], "audit": false,
        "bandwidth": null, "bandwidth_in": "1500kbit", "limits": { "pps": null, "flows": 7 } });
    assert_eq!(before, expected);
    agent.kill9();
    agent.run();
    assert_eq!(in_force(&agent), before);
    agent.change("a", "stop");
    let started = agent.change("a", "start");
    assert_eq!(started["allowed_cidr_count"], 1, "{started}");
    assert_eq!(in_force(&agent), before);
    let template = agent.api("POST", "/v1/instances/a/template", "");
    let expected = json!({ "network_policy": "custom", "allowed_cidrs": ["10.0.0.0/8"],
        "bandwidth_in": "1500kbit", "limits": { "flows": 7 } });
    assert_eq!(template.body, expected);
}

#[test]
fn a5_the_command_line_replaces_each_part_whole() {
    let world = World::new();
    let agent = world.agent("");
    let words = [
        "--json",
        "--name",
        "a",
        "--allowed-cidr",
        "10.0.0.0/8,::/0",
        "--bandwidth",
        "50mbit",
    ];
    let made = agent.say_json(&[&["create"], &words[..]].concat());
    assert_eq!(made["allowed_cidrs"], json!(["10.0.0.0/8", "::/0"]));
    let network = |words: &[&str]| agent.say_json(&[&["network", "a", "--json"], words].concat());
    let denied = network(&["--network-policy", "deny-all"]);
    let part = |shown: &Value, member: &str| shown.get(member).cloned();
    assert_eq!(part(&denied, "network_policy"), Some(json!("deny-all")));
    assert_eq!(part(&denied, "allowed_cidrs"), None);
    assert_eq!(
        part(&denied, "bandwidth"),
        Some(json!("50mbit")),
        "no flag named it"
    );
    let nothing = network(&["--allowed-cidr", "", "--limit-pps", "1000"]);
    assert_eq!(part(&nothing, "network_policy"), Some(json!("custom")));
    assert_eq!(part(&nothing, "allowed_cidrs"), Some(json!([])));
    assert_eq!(part(&nothing, "bandwidth"), Some(Value::Null));
    assert_eq!(nothing["limits"]["pps"], 1_000);
    let shown = agent.cli("inspect", &["a"]);
    let has_line = |words: &[&str]| {
        let mut lines = shown.lines();
        lines.any(|line| line.split_whitespace().eq(words.iter().copied()))
    };
    assert!(has_line(&["allowed_cidrs", "none"]), "{shown}");
    assert!(has_line(&["pps", "1000"]), "{shown}");
    let combined = agent.say(&[
        "network",
        "a",
        "--network-policy",
        "deny-all",
        "--denied-cidr",
        "::/0",
    ]);
    assert_eq!(
        String::from_utf8(combined.stderr).unwrap(),
        "netagent: Cannot combine --network-policy deny-all with --allowed-domain, --allowed-cidr, or --denied-cidr.\n"
    );
    assert_eq!(agent.say(&["network", "a"]).status.code(), Some(2));
    assert_eq!(part(&agent.inspect("a"), "allowed_cidrs"), Some(json!([])));
}

#[test]
fn a_policy_of_the_longest_lists_is_taken_shown_and_kept() {
    let world = World::new();
    let mut agent = world.agent("");
    let entries: Vec<String> = (0..100_000_u32)
        .map(|number| {
            format!(
                "10.{}.{}.{}/32",
                number >> 16,
                number >> 8 & 255,
                number & 255
            )
        })
        .collect();
    agent.create(&json!({ "name": "a", "allowed_cidrs": entries, "denied_cidrs": entries }));
    let before = in_force(&agent);
    assert_eq!(before["allowed_cidrs"].as_array().unwrap().len(), 100_000);
    let list = agent.api("GET", "/v1/instances", "").body;
    assert_eq!(list[0]["denied_cidr_count"], 100_000);
    assert!(list.to_string().len() < 10_000, "the lists are left out");
    agent.kill9();
    agent.run();
    assert_eq!(in_force(&agent), before);
}
