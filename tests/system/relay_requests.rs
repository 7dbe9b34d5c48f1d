//! Relays as requests ask for them, and as they are shown: without any traffic.

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::tap::{Header, Tap};
use netagent_tests::world::World;
use serde_json::{Value, json};

fn named(instance: &str, interface: Value) -> Value {
    json!({ "name": instance, "network_interfaces": [interface] })
}

fn client(instance: &str, relay: &str) -> Value {
    named(instance, json!({ "relay": { "name": relay } }))
}

/// `gw`, whose interface `gw-iface` is the relay of `box`.
fn pair(agent: &Agent) {
    agent.create(&named("gw", json!({ "name": "gw-iface" })));
    agent.create(&client("box", "gw-iface"));
}

fn invalid(name: &str) -> String {
    format!(
        "Invalid relay '{name}'. Please make sure the relay exists and does not create a circular dependency"
    )
}

fn relay_of(agent: &Agent, instance: &str) -> Value {
    agent.inspect(instance)["network_interfaces"][0]["relay"].clone()
}

fn status(agent: &Agent) -> String {
    let relay = relay_of(agent, "box");
    relay["status"].as_str().unwrap_or_default().to_owned()
}

fn check_settled(agent: &Agent) {
    assert_eq!(agent.cli("plan", &[]).trim(), "nothing to do");
}

#[test]
fn r2_relays_that_do_not_exist_or_have_one_are_refused_in_every_order() {
    let world = World::new();
    let agent = world.agent("");
    pair(&agent);
    let links = world.host.links();
    let own = json!({ "network_interfaces": [{ "name": "a" }, { "relay": { "name": "a" } }] });
    let each_other = json!({ "network_interfaces": [
        { "name": "a", "relay": { "name": "b" } }, { "name": "b", "relay": { "name": "a" } },
    ] });
    let itself = named("me", json!({ "name": "me", "relay": { "name": "me" } }));
    for (spec, name) in [
        (client("x", "nobody"), "nobody"),
        (client("x", "box-eth0"), "box-eth0"),
        (client("x", "x-eth0"), "x-eth0"),
        (client("x", "Not A Name"), "Not A Name"),
        (itself, "me"),
        (own, "a"),
        (each_other, "b"),
    ] {
        agent.refuse(&spec, (400, &invalid(name)));
    }
    let checked = agent.api(
        "POST",
        "/v1/instances?check=true",
        &client("x", "box-eth0").to_string(),
    );
    assert_eq!(checked.body, json!({ "faults": [invalid("box-eth0")] }));
    // Who is waited for as a relay can have none.
    agent.create(&named("far", json!({ "name": "far" })));
    agent.create(&client("waits", "far"));
    agent.cli("rm", &["far", "--force"]);
    let chained = json!({ "name": "far", "relay": { "name": "gw-iface" } });
    agent.refuse(&named("far", chained.clone()), (400, &invalid("gw-iface")));
    agent.delete("waits");
    agent.create(&named("far", chained));
    agent.delete("far");
    assert_eq!(world.host.links(), links);
    check_settled(&agent);
}

#[test]
fn r4_relay_dns_and_a_list_of_names_exclude_each_other() {
    let world = World::new();
    let agent = world.agent("");
    pair(&agent);
    let text = "relay_dns cannot be combined with allowed_domains";
    let relay = |dns: Value| json!({ "relay": { "name": "gw-iface", "relay_dns": dns } });
    let mut spec = named("x", relay(json!(true)));
    spec["allowed_domains"] = json!(["a.example"]);
    agent.refuse(&spec, (400, text));
    spec["network_interfaces"] = json!([relay(Value::Null)]);
    let made = agent.create(&spec);
    let shown = json!({ "name": "gw-iface", "relay_dns": false });
    assert_eq!(made["network_interfaces"][0]["relay"], shown);
    agent.create(&named("sure", relay(json!(true))));
    let names = json!({ "allowed_domains": ["a.example"] }).to_string();
    let refused = agent.api("PUT", "/v1/instances/sure/policy", &names);
    assert_eq!((refused.status, refused.message()), (400, text));
    assert_eq!(agent.inspect("sure")["network_policy"], "allow-all");
    // Where nothing was said, the list decides.
    for (body, dns) in [(names.as_str(), false), ("{}", true)] {
        let changed = agent.api("PUT", "/v1/instances/box/policy", body);
        assert_eq!(changed.status, 200, "{changed:?}");
        assert_eq!(relay_of(&agent, "box")["relay_dns"], dns);
    }
    check_settled(&agent);
}

#[test]
fn r7_inspect_says_whether_the_relay_is_there() {
    let world = World::new();
    let mut agent = world.agent("");
    pair(&agent);
    assert_eq!(
        relay_of(&agent, "box"),
        json!({ "name": "gw-iface", "relay_dns": true, "status": "down",
            "reason": "no VMM holds TAP device 'tap0' of instance 'gw'" })
    );
    let clients =
        |agent: &Agent| agent.inspect("gw")["network_interfaces"][0]["relay_clients"].clone();
    assert_eq!(clients(&agent), json!(["box-eth0"]));
    let tap = Tap::open(&world.host, "tap0", Header::Vnet);
    wait_until("a VMM holds the relay's TAP", SOON, || {
        status(&agent) == "up"
    });
    check_settled(&agent);
    drop(tap);
    wait_until("the VMM is gone", SOON, || status(&agent) == "down");
    let _tap = Tap::open(&world.host, "tap0", Header::Vnet);
    wait_until("the VMM is back", SOON, || status(&agent) == "up");
    // Another agent finds everything as it was.
    agent.kill9();
    agent.run();
    assert_eq!(
        (status(&agent).as_str(), clients(&agent)),
        ("up", json!(["box-eth0"]))
    );
    check_settled(&agent);
    agent.change("gw", "stop");
    let relay = relay_of(&agent, "box");
    assert_eq!(relay["reason"], "instance 'gw' does not run");
    let instance = agent.inspect("box");
    assert_eq!(
        (&instance["status"], instance.get("reason")),
        (&json!("running"), None)
    );
    check_settled(&agent);
    agent.change("gw", "start");
    let _tap = Tap::open(&world.host, "tap0", Header::Vnet);
    wait_until("the relay is back", SOON, || status(&agent) == "up");
    check_settled(&agent);
}

#[test]
fn r7_a_relay_is_deleted_by_force_alone_and_found_again_by_its_name() {
    let world = World::new();
    let agent = world.agent("");
    pair(&agent);
    agent.create(&client("second", "gw-iface"));
    let refused = agent.api("DELETE", "/v1/instances/gw", "");
    assert_eq!(refused.status, 409, "{refused:?}");
    let expected = "Network interface 'gw-iface' is the relay of 'box-eth0' of instance 'box', 'second-eth0' of instance 'second'";
    assert!(refused.message().starts_with(expected), "{refused:?}");
    let said = agent.try_cli("rm", &["gw"]);
    assert!(
        String::from_utf8_lossy(&said.stderr).contains(expected),
        "{said:?}"
    );
    agent.cli("rm", &["gw", "--force"]);
    assert_eq!(
        relay_of(&agent, "box")["reason"],
        "there is no network interface 'gw-iface'"
    );
    check_settled(&agent);
    // The place of the old one is another's, which is nobody's relay.
    agent.create(&json!({ "name": "other" }));
    let _other = Tap::open(&world.host, "tap0", Header::Vnet);
    let made = agent.create(&named("gw", json!({ "name": "gw-iface" })));
    let interface = &made["network_interfaces"][0];
    assert_eq!(
        interface["relay_clients"],
        json!(["box-eth0", "second-eth0"])
    );
    assert_eq!(status(&agent), "down");
    let tap = interface["tap_name"].as_str().unwrap();
    let _tap = Tap::open(&world.host, tap, Header::Vnet);
    wait_until("the new relay is up", SOON, || status(&agent) == "up");
    for name in ["box", "second", "gw"] {
        agent.delete(name);
    }
    check_settled(&agent);
}

#[test]
fn the_command_line_makes_and_shows_relays() {
    let world = World::new();
    let agent = world.agent("");
    agent.cli("create", &["--name", "gw"]);
    agent.cli(
        "create",
        &[
            "--name",
            "box",
            "--relay",
            "gw-eth0",
            "--relay-dns",
            "false",
        ],
    );
    let shown = agent.cli("inspect", &["box"]);
    assert!(
        shown.contains("by the agent") && shown.contains("down: no VMM holds"),
        "{shown}"
    );
    let shown = agent.cli("inspect", &["gw"]);
    assert!(shown.contains("is the relay of box-eth0"), "{shown}");
    for (format, expected) in [
        ("json", "\"net.ipv4.conf.eth0.rp_filter\": 0"),
        ("cmdline", "sysctl.net.ipv4.ip_forward=1"),
        ("cloud-init", "net.ipv6.conf.all.forwarding = 1"),
    ] {
        let told = agent.cli("guest", &["gw", "--format", format]);
        assert!(told.contains(expected), "{format}: {told}");
        let told = agent.cli("guest", &["box", "--format", format]);
        assert!(!told.contains("ip_forward"), "{format}: {told}");
    }
    let explained = agent.cli("explain", &["box", "203.0.113.1:80"]);
    for expected in [
        "denied (relay_down)",
        "relay gw-eth0 is down",
        "via relay gw-eth0, then uplink",
    ] {
        assert!(explained.contains(expected), "{expected}: {explained}");
    }
    let explained = agent.cli("explain", &["box", "203.0.113.1:53"]);
    assert!(explained.contains("the agent's resolver"), "{explained}");
    let _tap = Tap::open(&world.host, "tap0", Header::Vnet);
    wait_until("the relay is up", SOON, || status(&agent) == "up");
    let explained = agent.cli("explain", &["box", "203.0.113.1:80"]);
    assert!(explained.contains("verdict  allowed"), "{explained}");
}
