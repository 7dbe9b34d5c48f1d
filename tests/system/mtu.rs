//! The MTU of an interface: its own, its instance's or the uplink's, which is followed (M-7).

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_for, wait_until};
use netagent_tests::frame::Frame;
use netagent_tests::guest::Guest;
use netagent_tests::netns::NetNs;
use netagent_tests::packet;
use netagent_tests::tap::Header;
use netagent_tests::world::{FAR_END, SILENT, UPLINK, World};
use serde_json::{Value, json};

use crate::changes::leaves;
use crate::exchange::{FlowTo, Protocol, Way};

/// MTU of a device.
fn mtu(host: &NetNs, name: &str) -> u64 {
    let links = host.json(&format!("ip -json link show dev {name}"));
    links[0]["mtu"].as_u64().unwrap()
}

/// MTUs of the interfaces of an instance, as they are shown and as their TAPs have them.
fn mtus(world: &World, agent: &Agent, name: &str) -> Vec<(u64, u64)> {
    let instance = agent.inspect(name);
    let interfaces = instance["network_interfaces"].as_array().unwrap().iter();
    interfaces
        .map(|interface| {
            let tap = interface["tap_name"].as_str().unwrap();
            (interface["mtu"].as_u64().unwrap(), mtu(&world.host, tap))
        })
        .collect()
}

fn set_uplink(world: &World, mtu: u32) {
    world.outside.ip(&format!("link set {FAR_END} mtu {mtu}"));
    world.host.ip(&format!("link set {UPLINK} mtu {mtu}"));
}

fn wait_for_mtus(world: &World, agent: &Agent, name: &str, expected: &[u64]) {
    let expected: Vec<_> = expected.iter().map(|mtu| (*mtu, *mtu)).collect();
    wait_for("the MTUs", SOON, || {
        (mtus(world, agent, name) == expected).then_some(())
    });
}

/// A payload that makes a datagram of this many bytes, IP header included.
fn payload(bytes: usize) -> Vec<u8> {
    vec![0x5a; bytes - 28]
}

fn too_big(agent: &Agent, name: &str) -> u64 {
    agent.drops(name).get("too_big").copied().unwrap_or(0)
}

const BOTH: &str =
    r#"{"name": "both", "mtu": 1300, "network_interfaces": [{}, {"mtu": 1450}, {"mtu": null}]}"#;

#[test]
fn the_interfaces_mtu_wins_over_the_instances_and_that_over_the_uplinks_which_is_followed() {
    let world = World::new();
    let mut agent = world.agent("");
    agent.create(&json!({ "name": "followed" }));
    agent.create(&json!({ "name": "null", "mtu": null }));
    let made = agent.create(&serde_json::from_str(BOTH).unwrap());
    let shown = made["network_interfaces"].as_array().unwrap().iter();
    let shown: Vec<&Value> = shown.map(|interface| &interface["mtu"]).collect();
    assert_eq!(shown, [1300, 1450, 1300]);
    let check = |agent: &Agent, uplink: u64| {
        wait_for_mtus(&world, agent, "followed", &[uplink]);
        wait_for_mtus(&world, agent, "null", &[uplink]);
        wait_for_mtus(&world, agent, "both", &[1300, 1450, 1300]);
    };
    check(&agent, 1500);
    for uplink in [9000, 1400] {
        set_uplink(&world, uplink);
        check(&agent, uplink.into());
    }
    // What was asked for outlives the agent, and what is followed is followed by the next one.
    agent.kill9();
    set_uplink(&world, 1600);
    agent.run();
    check(&agent, 1600);
    agent.change("both", "stop");
    set_uplink(&world, 1500);
    let shown = agent.inspect("both")["network_interfaces"][1]["mtu"].clone();
    assert_eq!(shown, 1450, "a stopped instance shows it too");
    agent.change("both", "start");
    check(&agent, 1500);
}

#[test]
fn the_command_line_has_a_flag_for_it() {
    let world = World::new();
    let agent = world.agent("");
    let made = agent.say_json(&["create", "--name", "flag", "--mtu", "1342", "--json"]);
    assert_eq!(made["network_interfaces"][0]["mtu"], 1342);
    assert_eq!(mtus(&world, &agent, "flag"), [(1342, 1342)]);
    let refused = agent.say(&["create", "--mtu", "67"]);
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(complaint.contains("Invalid mtu '67'"), "{complaint}");
}

#[test]
fn what_a_guest_receives_fits_its_mtu_and_what_it_sends_the_way_out() {
    let world = World::new();
    let agent = world.agent("");
    let spec = json!({"name": "small", "mtu": 1000});
    let guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    let wire = world.wire();
    let nic = guest.nic();
    let way = Way::new(&world, nic, &wire);
    let flow = FlowTo {
        protocol: Protocol::Udp,
        remote: SILENT[0],
        ports: (9_000, 7),
    };
    let nat_port = way.send(flow, Frame::plain, &payload(1_500));
    way.answer(flow, nat_port, Frame::plain, &payload(1_000));
    assert_eq!(too_big(&agent, "small"), 0);
    let sent = packet::udp(&nic.to(flow.remote), flow.ports, &payload(1_501));
    nic.tap.send_bytes(sent);
    wait_until("it is too big for the uplink", SOON, || {
        too_big(&agent, "small") == 1
    });
    let received = packet::udp(&way.back(flow.remote), (7, nat_port), &payload(1_001));
    wire.send(&Frame::plain(received));
    wait_until("it is too big for the TAP", SOON, || {
        too_big(&agent, "small") == 2
    });
}

/// Refused with this status and text, and nothing is reserved.
fn refuse(agent: &Agent, mtu: &Value, (status, text): (u16, &str)) {
    agent.refuse(&json!({"name": "bad", "mtu": mtu}), (status, text));
    let interface = json!({"name": "bad", "network_interfaces": [{ "mtu": mtu }]});
    agent.refuse(&interface, (status, text));
}

#[test]
fn a_value_that_no_device_takes_is_refused() {
    let world = World::new();
    let agent = world.agent("");
    for bad in [0_u64, 67, 65_536, u64::MAX] {
        let text =
            format!("Invalid mtu '{bad}': use 68 to 65535, or leave it out for the uplink's");
        refuse(&agent, &json!(bad), (400, &text));
    }
    for bad in [json!("1500"), json!(1.5), json!(-1), json!(true), json!([])] {
        refuse(&agent, &bad, (400, "Member 'mtu' must be a whole number"));
    }
    let text = "Invalid mtu '65522': a TAP device takes 68 to 65521";
    refuse(&agent, &json!(65_522), (400, text));
    world.host.ip("tuntap add dev vpc0 mode tap");
    for tap in ["vpc0", "vpc1"] {
        let interface = json!({"ip": "10.7.0.5/24", "tap_name": tap, "mtu": 65_535});
        let text = format!("Invalid mtu '65535': TAP device '{tap}' takes 68 to 65521");
        let spec = json!({"name": "bad", "network_interfaces": [interface]});
        agent.refuse(&spec, (400, &text));
        let check = agent.api("POST", "/v1/instances?check=true", &spec.to_string());
        assert_eq!(check.body["faults"], json!([text]));
    }
    assert_eq!(mtu(&world.host, "vpc0"), 1500, "it is as it was");
    let none = agent.api("GET", "/v1/instances", "");
    assert_eq!(none.body, json!([]));
    agent.create(&json!({"name": "low", "mtu": 68}));
    agent.create(&json!({"name": "high", "mtu": 65_521}));
    assert_eq!(mtus(&world, &agent, "low"), [(68, 68)]);
    assert_eq!(mtus(&world, &agent, "high"), [(65_521, 65_521)]);
}

#[test]
fn a_tap_has_its_own_highest_where_the_uplinks_mtu_is_higher() {
    let world = World::new();
    set_uplink(&world, 65_535);
    let agent = world.agent("");
    agent.create(&json!({ "name": "jumbo" }));
    assert_eq!(mtus(&world, &agent, "jumbo"), [(65_521, 65_521)]);
    set_uplink(&world, 1500);
    wait_for_mtus(&world, &agent, "jumbo", &[1500]);
    set_uplink(&world, 65_535);
    wait_for_mtus(&world, &agent, "jumbo", &[65_521]);
}

/// Whether the host has IPv6 for this TAP: the gateway's address.
fn has_gateway_v6(host: &NetNs, tap: &str) -> bool {
    let addresses = host.shell(&format!("ip -6 address show dev {tap}"));
    addresses.contains("fe80::1/")
}

fn check_v6(world: &World, agent: &Agent, guest: &Guest, expected: bool) {
    let nic = guest.nic();
    wait_until("IPv6 comes and goes", SOON, || {
        has_gateway_v6(&world.host, &nic.tap_name) == expected
    });
    let wire = world.wire();
    let v6 = SILENT.into_iter().find(|remote| remote.is_ipv6()).unwrap();
    wait_until("the guest's IPv6", SOON, || {
        leaves(nic, &wire, v6, 9_100).is_some() == expected
    });
    assert!(leaves(nic, &wire, SILENT[0], 9_101).is_some());
    // Its address stays reserved, and shown.
    let name = guest.answer["name"].as_str().unwrap();
    let interface = agent.inspect(name)["network_interfaces"][0].clone();
    assert_eq!(
        interface["ip6"],
        guest.answer["network_interfaces"][0]["ip6"]
    );
    assert_eq!(agent.inspect(name)["status"], "running");
}

#[test]
fn below_1280_bytes_there_is_no_ipv6_and_from_there_on_there_is() {
    let world = World::new();
    let mut agent = world.agent("");
    let guest = |name: &str, mtu: Value| {
        let spec = json!({"name": name, "mtu": mtu});
        Guest::create_from(&agent, &world.host, &spec, Header::Vnet)
    };
    let (followed, small, enough) = (
        guest("followed", Value::Null),
        guest("small", json!(1279)),
        guest("enough", json!(1280)),
    );
    check_v6(&world, &agent, &followed, true);
    check_v6(&world, &agent, &small, false);
    check_v6(&world, &agent, &enough, true);
    set_uplink(&world, 1279);
    wait_for_mtus(&world, &agent, "followed", &[1279]);
    wait_until("IPv6 goes", SOON, || {
        !has_gateway_v6(&world.host, &followed.nic().tap_name)
    });
    set_uplink(&world, 1500);
    world.add_v6();
    wait_for_mtus(&world, &agent, "followed", &[1500]);
    check_v6(&world, &agent, &followed, true);
    agent.kill9();
    agent.run();
    check_v6(&world, &agent, &small, false);
    check_v6(&world, &agent, &enough, true);
    let plan: Value = serde_json::from_str(&agent.cli("plan", &["--json"])).unwrap();
    assert_eq!(
        (&plan["steps"], &plan["problems"]),
        (&json!([]), &json!([]))
    );
}

#[test]
fn an_existing_tap_is_given_back_with_its_own_mtu() {
    let world = World::new();
    world.host.ip("tuntap add dev vpc1 mode tap");
    world.host.ip("link set dev vpc1 mtu 1100");
    let agent = world.agent("");
    for (given, expected) in [(json!(null), 1500), (json!(9000), 9000), (json!(600), 600)] {
        let interface = json!({"ip": "10.7.0.5/24", "tap_name": "vpc1", "mtu": given});
        agent.create(&json!({"name": "lent", "network_interfaces": [interface]}));
        assert_eq!(mtus(&world, &agent, "lent"), [(expected, expected)]);
        agent.change("lent", "stop");
        assert_eq!(mtu(&world.host, "vpc1"), 1100);
        agent.change("lent", "start");
        assert_eq!(mtus(&world, &agent, "lent"), [(expected, expected)]);
        agent.delete("lent");
        assert_eq!(mtu(&world.host, "vpc1"), 1100);
    }
}

#[test]
fn an_mtu_that_somebody_changed_is_set_again() {
    let world = World::new();
    let agent = world.agent("");
    agent.create(&json!({"name": "own", "mtu": 1400}));
    world.host.ip("link set dev tap0 mtu 1200");
    wait_for_mtus(&world, &agent, "own", &[1400]);
}
