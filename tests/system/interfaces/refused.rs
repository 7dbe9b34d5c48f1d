//! Requests that are refused, and leave nothing.

use netagent_tests::database;
use netagent_tests::world::World;
use serde_json::{Value, json};

use crate::interfaces::each;

/// A custom interface.
fn custom(ip: &str, tap_name: &str) -> Value {
    json!({ "network_interfaces": [{ "ip": ip, "tap_name": tap_name }] })
}

const VICE_VERSA: &str =
    "Network interface must specify an IP address when a TAP device is provided and vice versa";

/// Requests that are refused, with status and the whole text.
const REFUSED: [(&str, u16, &str); 27] = [
    (
        r#"{"network_interfaces": [{"ip": "10.7.0.5/24"}]}"#,
        400,
        VICE_VERSA,
    ),
    (
        r#"{"network_interfaces": [{"tap_name": "vpc0"}]}"#,
        400,
        VICE_VERSA,
    ),
    (
        r#"{"network_interfaces": [{"ip6": "fec0::2/64", "tap_name": "vpc0"}]}"#,
        400,
        VICE_VERSA,
    ),
    (
        r#"{"network_interfaces": [{"ip": "172.16.0.2/30", "tap_name": "vpc0"}]}"#,
        400,
        "Network interface IP address cannot be from the platform's address pool",
    ),
    (
        r#"{"network_interfaces": [{"ip": "10.7.0.5/24", "tap_name": "tap7"}]}"#,
        400,
        "Network interface TAP device cannot be from the platform's device pool",
    ),
    (r#"{"colour": 1}"#, 400, "Unknown member 'colour'"),
    (
        r#"{"network_interfaces": [{"colour": 1}]}"#,
        400,
        "Unknown member 'colour'",
    ),
    (
        r#"{"network_interfaces": [{"relay": {"colour": 1}}]}"#,
        400,
        "Unknown member 'colour'",
    ),
    (
        r#"{"limits": {"colour": 1}}"#,
        400,
        "Unknown member 'colour'",
    ),
    (
        r#"{"publish": [{"colour": 1}]}"#,
        400,
        "Unknown member 'colour'",
    ),
    (r#"{"name": 7}"#, 400, "Member 'name' must be a text"),
    (
        r#"{"network_interfaces": {}}"#,
        400,
        "Member 'network_interfaces' must be a list of objects",
    ),
    (
        r#"{"network_interfaces": [7]}"#,
        400,
        "Member 'network_interfaces' must be a list of objects",
    ),
    (
        r#"{"network_interfaces": [{"ip": 7, "tap_name": "vpc0"}]}"#,
        400,
        "Member 'ip' must be a text",
    ),
    (
        r#"{"network_interfaces": [{"autoconfig": "yes"}]}"#,
        400,
        "Member 'autoconfig' must be true or false",
    ),
    (
        r#"{"network_interfaces": [{"relay": "x"}]}"#,
        400,
        "Member 'relay' must be an object",
    ),
    (
        r#"{"network_interfaces": [{"relay": {"name": 7}}]}"#,
        400,
        "Member 'name' must be a text",
    ),
    (
        r#"{"autostart": 1}"#,
        400,
        "Member 'autostart' must be true or false",
    ),
    (r#"{"gateway": 1}"#, 400, "Member 'gateway' must be a text"),
    (
        r#"{"network_interfaces": [{"mode": "bridge"}]}"#,
        501,
        "Not supported yet: mode",
    ),
    (
        r#"{"network_interfaces": [{"guest_ip": "10.0.0.1"}]}"#,
        501,
        "Not supported yet: guest_ip",
    ),
    (
        r#"{"allowed_domains": ["a..b"]}"#,
        400,
        "Invalid domain: \"a..b\": a label is empty. Expected a name like api.example.com, or *.example.com for all names below it",
    ),
    (
        r#"{"mtu": 65522}"#,
        400,
        "Invalid mtu '65522': a TAP device takes 68 to 65521",
    ),
    (
        r#"{"name": "first"}"#,
        409,
        "Instance name 'first' is already in use",
    ),
    (
        r#"{"network_interfaces": [{"ip": "10.8.0.1/24", "tap_name": "vpc9"}]}"#,
        409,
        "Network interface IP address '10.8.0.1/24' is already in use",
    ),
    (
        r#"{"network_interfaces": [{"ip": "10.8.0.2/24", "tap_name": "own0"}]}"#,
        409,
        "TAP device 'own0' is already in use by another network interface",
    ),
    (
        r#"{"network_interfaces": [{"ip": "10.8.0.2/24", "tap_name": "veth9"}]}"#,
        400,
        "Device 'veth9' exists and is not a TAP device",
    ),
];

#[test]
fn a_refusal_says_why_and_leaves_neither_link_nor_pin_nor_row() {
    let world = World::new();
    world.host.ip("link add veth9 type veth peer name veth10");
    let agent = world.agent("");
    agent.create(&json!({ "name": "first", "network_interfaces": [{ "ip": "10.8.0.1/24", "tap_name": "own0" }] }));
    let state = || {
        (
            world.host.links(),
            agent.pins().pins(),
            database::rows(agent.state_dir()),
        )
    };
    let before = state();
    for (spec, status, text) in REFUSED {
        agent.refuse(&serde_json::from_str(spec).unwrap(), (status, text));
    }
    // Two interfaces of one request that contradict each other, and one that fails after good ones.
    for entries in [
        json!([{ "ip": "10.9.0.1/24", "tap_name": "vpc1" }, { "ip": "10.9.0.1/24", "tap_name": "vpc2" }]),
        json!([{ "ip": "10.9.0.1/24", "tap_name": "vpc1" }, { "ip": "10.9.0.2/24", "tap_name": "vpc1" }]),
        json!([{ "mac": "02:00:00:00:00:01" }, { "mac": "02:00:00:00:00:01" }]),
        json!([{}, {}, { "ip": "10.8.0.2/24", "tap_name": "veth9" }]),
    ] {
        let spec = json!({ "network_interfaces": entries });
        let answer = agent.api("POST", "/v1/instances", &spec.to_string());
        assert!(matches!(answer.status, 400 | 409), "{spec}: {answer:?}");
        assert!(
            answer.message().contains("already in use") || answer.status == 400,
            "{spec}: {answer:?}"
        );
    }
    for body in [
        "{",
        "[]",
        "7",
        "\"x\"",
        "null",
        "",
        "{\"name\": \"a\"} x",
        "{\"name\": \"a\", \"name\": \"b\"}",
    ] {
        let answer = agent.api("POST", "/v1/instances", body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(!answer.message().is_empty(), "{body}");
    }
    let after = state();
    assert_eq!(before.0, after.0, "links");
    assert_eq!(before.1, after.1, "pins");
    assert_eq!(before.2, after.2, "rows");
    assert_eq!(
        each(&agent.create(&json!({})), "tap_name"),
        ["tap0"],
        "nothing was reserved"
    );
}

#[test]
fn an_exhausted_pool_is_named_and_leaves_nothing() {
    let world = World::new();
    let agent = world.agent("[pool]\nsubnet = \"172.16.0.0/29\"\n");
    agent.create(&json!({ "name": "first" }));
    let rows = database::rows(agent.state_dir());
    let text = "Address pool 172.16.0.0/29 is exhausted";
    agent.refuse(&json!({ "network_interfaces": [{}, {}] }), (507, text));
    assert_eq!(database::rows(agent.state_dir()), rows);
    agent.create(&json!({ "name": "second" }));
    agent.refuse(&json!({}), (507, text));
    // An address of the user's own needs none of the pool.
    agent.create(&custom("10.7.0.5/24", "vpc0"));
    agent.delete("first");
    assert_eq!(each(&agent.create(&json!({})), "ip"), ["172.16.0.2/30"]);
}

#[test]
fn create_check_lists_all_faults_and_creates_nothing() {
    let world = World::new();
    let agent = world.agent("");
    let spec = json!({
        "name": "Bad Name",
        "network_interfaces": [{ "ip": "10.7.0.5/24" }, { "ip": "172.16.0.2/30", "tap_name": "tap7" }],
        "gateway": "nowhere",
    });
    let path = agent.directory().join("spec.json");
    let rows = database::rows(agent.state_dir());
    let check = |spec: &Value| {
        std::fs::write(&path, spec.to_string()).unwrap();
        let output = agent.try_cli("create", &["--check", "-f", &path.to_string_lossy()]);
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    let (passed, said) = check(&spec);
    assert!(!passed, "{said}");
    for fault in [
        "Invalid name 'Bad Name'",
        "must specify an IP address when a TAP device is provided",
        "cannot be from the platform's address pool",
        "cannot be from the platform's device pool",
        "nowhere",
    ] {
        assert!(said.contains(fault), "no {fault:?}: {said}");
    }
    // The API, which stops at the first fault, names one of them.
    let answer = agent.api("POST", "/v1/instances", &spec.to_string());
    assert!(said.contains(answer.message()), "{answer:?}: {said}");
    let (passed, said) = check(&json!({ "name": "good" }));
    assert!(passed, "{said}");
    assert_eq!(agent.api("GET", "/v1/instances", "").body, json!([]));
    assert_eq!(database::rows(agent.state_dir()), rows);
}
