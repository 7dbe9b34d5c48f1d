//! Bad input: one line that says what is wrong and how to mend it, and nothing left behind.

use std::fs;

use netagent_tests::agent::Agent;
use netagent_tests::netns::NetNs;
use netagent_tests::world::{UPLINK, World};

/// Starts an agent that must refuse, and checks what it says and that it leaves nothing.
fn check_start(mut agent: Agent, netns: &NetNs, words: &[&str]) {
    let links = netns.links();
    let output = agent.run_to_end();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = complaint.trim_end().lines().last().unwrap_or_default();
    assert!(!output.status.success(), "{complaint}");
    for word in words {
        assert!(
            last.contains(word),
            "no {word:?} in the last line: {complaint}"
        );
    }
    assert_eq!(netns.links(), links, "links are left");
    assert_eq!(agent.pins().pins().len(), 0, "pins are left");
}

#[test]
fn an_unknown_key_of_the_configuration_is_named() {
    let world = World::new();
    for (configuration, key) in [
        ("colour = \"red\"\n", "colour"),
        ("[datapath]\natach = \"tcx\"\n", "atach"),
    ] {
        let agent = Agent::prepare(&world.host, Some(UPLINK), configuration);
        check_start(agent, &world.host, &[key, "netagent.toml", "line"]);
    }
}

#[test]
fn a_host_without_an_uplink_is_told_how_to_name_one() {
    let bare = NetNs::new();
    check_start(
        Agent::prepare(&bare, None, ""),
        &bare,
        &["uplink", "--uplink"],
    );
    let world = World::new();
    check_start(
        Agent::prepare(&world.host, Some("nothing0"), ""),
        &world.host,
        &["nothing0"],
    );
    check_start(
        Agent::prepare(&world.host, Some("lo"), ""),
        &world.host,
        &["lo"],
    );
}

#[test]
fn a_pool_that_overlaps_the_uplinks_network_is_refused() {
    let world = World::new();
    let agent = Agent::prepare(
        &world.host,
        Some(UPLINK),
        "[pool]\nsubnet = \"198.51.0.0/16\"\n",
    );
    check_start(agent, &world.host, &["198.51.0.0/16"]);
}

/// The command between backquotes in what the agent says.
fn quoted_command(complaint: &str) -> &str {
    let command = complaint.split('`').nth(1);
    command.unwrap_or_else(|| panic!("no command in backquotes: {complaint}"))
}

#[test]
fn nat_ports_that_the_host_takes_itself_refuse_the_start_and_the_command_shown_mends_it() {
    for (local, reserved) in [
        ("20000 60999", ""),
        ("1024 65535", "80,5000-5100"),
        ("29999 60999", "16384-29998"),
        ("1024 16384", ""),
    ] {
        let world = World::new();
        let set = |name: &str, value: &str| world.host.sysctl(&format!("net/ipv4/{name}"), value);
        set("ip_local_port_range", local);
        set("ip_local_reserved_ports", reserved);
        let words = ["16384-29999", "nat.ports", "net.ipv4.ip_local_port_range"];
        let prepared = || Agent::prepare(&world.host, Some(UPLINK), "");
        check_start(prepared(), &world.host, &words);

        let output = prepared().run_to_end();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        world.host.shell(quoted_command(&complaint));
        let left = world
            .host
            .read_sysctl("net/ipv4/ip_local_reserved_ports")
            .unwrap();
        assert!(
            left.starts_with(reserved.split('-').next().unwrap_or_default()),
            "what was reserved stays so: {left}"
        );
        let _starts = world.agent("");
    }
}

#[test]
fn other_nat_ports_make_way_for_the_hosts_own() {
    let world = World::new();
    world
        .host
        .sysctl("net/ipv4/ip_local_port_range", "16384 60999");
    let _starts = world.agent("[nat]\nports = \"10000-16383\"\n");
    let elsewhere = Agent::prepare(
        &world.host,
        Some(UPLINK),
        "[nat]\nports = \"10000-16384\"\n",
    );
    check_start(elsewhere, &world.host, &["10000-16384"]);
}

#[test]
fn a_taken_socket_path_is_named_and_left_alone() {
    let world = World::new();
    let agent = Agent::prepare(&world.host, Some(UPLINK), "");
    let path = agent.socket();
    fs::write(&path, "somebody's file").unwrap();
    check_start(agent, &world.host, &["netagent.sock"]);

    let first = world.agent("");
    let mut second = Agent::prepare(&world.host, Some(UPLINK), "");
    let listener = std::os::unix::net::UnixListener::bind(second.socket()).unwrap();
    let output = second.run_to_end();
    assert!(!output.status.success());
    assert!(second.socket().exists(), "the listener keeps its path");
    drop(listener);
    assert_eq!(first.api("GET", "/healthz", "").status, 200);
}

#[test]
fn a_user_without_rights_is_told_so() {
    let world = World::new();
    let agent = Agent::prepare(&world.host, Some(UPLINK), "");
    // setpriv drops every capability; the files stay readable.
    let binary = netagent_tests::agent::binary();
    let words = agent
        .command("run")
        .get_args()
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>();
    let line = format!(
        "setpriv --bounding-set=-all --inh-caps=-all {} {}",
        binary.display(),
        words.join(" ")
    );
    let output = world.host.try_shell(&line);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{complaint}");
    let last = complaint
        .trim_end()
        .lines()
        .last()
        .unwrap_or_default()
        .to_lowercase();
    assert!(
        ["root", "cap_", "permi", "doctor"]
            .iter()
            .any(|word| last.contains(word)),
        "{complaint}"
    );
    assert_eq!(world.host.links(), ["lo", UPLINK]);
}

/// A body, the status and a part of the text that refuse it.
const BODIES: [(&str, u16, &str); 17] = [
    ("{", 400, ""),
    ("[]", 400, ""),
    (r#"{"name": 1}"#, 400, "name"),
    (r#"{"name": "a", "name": "b"}"#, 400, "name"),
    (r#"{"name": "Upper"}"#, 400, "Upper"),
    (r#"{"colour": "red"}"#, 400, "Unknown member 'colour'"),
    (
        r#"{"network_interfaces": [{"colour": "red"}]}"#,
        400,
        "Unknown member 'colour'",
    ),
    (r#"{"network_interfaces": []}"#, 400, ""),
    (r#"{"network_interfaces": [{}, {}, {}, {}, {}]}"#, 400, ""),
    (
        r#"{"network_interfaces": [{"ip": "10.0.0.2/24"}]}"#,
        400,
        "must specify an IP address",
    ),
    (
        r#"{"network_interfaces": [{"tap_owner": "nobody-of-this-name"}]}"#,
        400,
        "nobody-of-this-name",
    ),
    (
        r#"{"allowed_domains": ["https://example.org"]}"#,
        400,
        "Invalid domain: \"https://example.org\": a label has other characters than letters, digits, - and _",
    ),
    (
        r#"{"publish": ["8080:80/sctp"]}"#,
        400,
        "Invalid entry '8080:80/sctp' of member 'publish'",
    ),
    (
        r#"{"allowed_cidrs": ["0.0.0.0"]}"#,
        400,
        "Invalid CIDR format: \"0.0.0.0\". Expected format: x.x.x.x/y",
    ),
    (
        r#"{"bandwidth": 0}"#,
        400,
        "Invalid value '0' of member 'bandwidth'",
    ),
    (
        r#"{"network_interfaces": [{"mode": "bridge"}]}"#,
        501,
        "Not supported yet: mode",
    ),
    (
        r#"{"network_interfaces": [{"relay": {"name": "x"}}]}"#,
        400,
        "Invalid relay 'x'. Please make sure the relay exists and does not create a circular dependency",
    ),
];

#[test]
fn bad_requests_are_refused_with_their_reason_and_leave_nothing() {
    let world = World::new();
    let agent = world.agent("");
    let links = world.host.links();
    for (body, status, text) in BODIES {
        let answer = agent.api("POST", "/v1/instances", body);
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert!(answer.message().contains(text), "{body}: {answer:?}");
        assert!(!answer.message().contains('\n'), "{body}: {answer:?}");
    }
    assert_eq!(world.host.links(), links);
    let created = agent.create(&serde_json::json!({ "name": "first" }));
    assert_eq!(
        created["network_interfaces"][0]["tap_name"], "tap0",
        "nothing was reserved"
    );
    let again = agent.api("POST", "/v1/instances", r#"{"name": "first"}"#);
    assert_eq!(again.status, 409, "{again:?}");
    assert_eq!(agent.api("GET", "/v1/instances/nobody", "").status, 404);
    for (method, path) in [
        ("GET", "/v1/flows"),
        ("GET", "/metrics"),
        ("POST", "/v1/instances/first/branch"),
    ] {
        let answer = agent.api(method, path, "");
        assert_eq!(answer.status, 501, "{method} {path}: {answer:?}");
    }
}

#[test]
fn words_that_are_not_built_say_so() {
    let world = World::new();
    let agent = Agent::prepare(&world.host, Some(UPLINK), "");
    let output = world.host.try_shell(&format!(
        "{} flows",
        netagent_tests::agent::binary().display()
    ));
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{complaint}");
    assert!(complaint.contains("not supported yet"), "{complaint}");
    let output = agent.try_cli("ls", &[]);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && complaint.contains("netagent.sock"),
        "{complaint}"
    );
}

#[test]
fn a_foreign_device_on_the_pools_name_is_left_alone() {
    let world = World::new();
    world.host.ip("link add tap0 type veth peer name tap0peer");
    let agent = world.agent("");
    let created = agent.create(&serde_json::json!({}));
    assert_eq!(created["network_interfaces"][0]["tap_name"], "tap1");
    assert!(world.host.links().contains(&"tap0".to_owned()));
}
