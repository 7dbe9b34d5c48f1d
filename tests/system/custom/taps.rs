//! TAPs of the user's own: those that are lent and given back, and those that the agent makes.

use std::collections::BTreeMap;
use std::fs;

use netagent_common::net::GATEWAY_MAC;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::guest::Nic;
use netagent_tests::netns::NetNs;
use netagent_tests::tap::{Header, Tap};
use netagent_tests::world::{UPLINK, World};
use serde_json::{Value, json};

use crate::exchange::Way;

use crate::custom::{custom, flow};

/// What the user's TAP is like, as far as anyone but its VMM can tell.
#[derive(Debug, PartialEq)]
struct Shape {
    link: Value,
    addresses: Vec<String>,
    routes: Vec<String>,
    neighbours: String,
    has_clsact: bool,
    programs: String,
    settings: BTreeMap<String, String>,
}

impl Shape {
    fn of(host: &NetNs, name: &str) -> Self {
        let link = host.json(&format!("ip -details -json link show dev {name}"));
        let link = &link[0];
        let data = &link["linkinfo"]["info_data"];
        let is_up = link["flags"].as_array().unwrap().contains(&json!("UP"));
        let addresses = host.json(&format!("ip -json address show dev {name}"));
        let address = |address: &Value| {
            format!(
                "{}/{}",
                address["local"].as_str().unwrap(),
                address["prefixlen"]
            )
        };
        let routes = host.json(&format!("ip -json route show dev {name}"));
        let destination = |route: &Value| route["dst"].as_str().unwrap().to_owned();
        let queueing = host.shell(&format!("tc qdisc show dev {name}"));
        Self {
            link: json!([
                link["ifindex"],
                link["mtu"],
                link["address"],
                link["ifalias"],
                is_up,
                data["persist"],
                data["user"],
            ]),
            addresses: texts(&addresses[0]["addr_info"], address),
            routes: texts(&routes, destination),
            neighbours: host.shell(&format!("ip neighbour show dev {name}")),
            has_clsact: queueing.contains("clsact"),
            programs: host.shell(&format!("bpftool net show dev {name}")),
            settings: settings(host, name),
        }
    }
}

fn texts(list: &Value, text: impl Fn(&Value) -> String) -> Vec<String> {
    list.as_array().unwrap().iter().map(text).collect()
}

/// Every readable setting of a device.
fn settings(host: &NetNs, name: &str) -> BTreeMap<String, String> {
    host.run(|| {
        let directories =
            ["ipv4", "ipv6"].map(|family| format!("/proc/sys/net/{family}/conf/{name}"));
        let files = directories
            .iter()
            .flat_map(|path| fs::read_dir(path).unwrap());
        files
            .map(|file| file.unwrap().path())
            .filter_map(|path| Some((path.display().to_string(), fs::read_to_string(&path).ok()?)))
            .collect()
    })
}

/// The user's own TAP.
fn make_own(host: &NetNs) {
    host.ip("tuntap add dev vpc1 mode tap user 1000");
    for words in [
        "link set dev vpc1 address 02:00:00:00:00:77 mtu 1400 alias my-own-tap",
        "link set dev vpc1 addrgenmode none",
        "address add 10.200.0.1/24 dev vpc1",
        "address add fd00:7::1/64 dev vpc1 nodad",
        "link set dev vpc1 up",
    ] {
        host.ip(words);
    }
    for (path, value) in [
        ("ipv4/conf/vpc1/rp_filter", "1"),
        ("ipv4/conf/vpc1/proxy_arp", "1"),
    ] {
        host.sysctl(&format!("net/{path}"), value);
    }
}

#[test]
fn an_existing_tap_is_used_and_given_back_as_it_was() {
    for configuration in ["", "[datapath]\nattach = \"clsact\"\n"] {
        let world = World::new();
        make_own(&world.host);
        let before = Shape::of(&world.host, "vpc1");
        let mut agent = world.agent(configuration);
        let wire = world.wire();
        let spec = custom("lent", "10.7.0.5/24", "vpc1");
        let ifindex = world.host.ifindex("vpc1");
        let used = |agent: &Agent, port: u16| {
            let interface = agent.inspect("lent")["network_interfaces"][0].clone();
            let nic = Nic::open(&world.host, &interface, Header::Vnet);
            Way::new(&world, &nic, &wire).check(flow(0, port));
            assert_eq!(world.host.ifindex("vpc1"), ifindex, "it is not made anew");
            assert_eq!(world.host.mac("vpc1"), GATEWAY_MAC);
        };
        agent.create(&spec);
        used(&agent, 8_000);
        agent.refuse(
            &custom("second", "10.7.0.6/24", "vpc1"),
            (
                409,
                "TAP device 'vpc1' is already in use by another network interface",
            ),
        );
        agent.change("lent", "stop");
        assert_eq!(Shape::of(&world.host, "vpc1"), before, "after stop");
        agent.change("lent", "start");
        used(&agent, 8_001);
        // The agent that gives it back is not the one that took it.
        agent.kill9();
        agent.run();
        used(&agent, 8_002);
        agent.delete("lent");
        assert_eq!(Shape::of(&world.host, "vpc1"), before, "after delete");

        agent.create(&spec);
        agent.create(&json!({ "name": "pool" }));
        used(&agent, 8_003);
        agent.stop();
        agent.cli("down", &["--all"]);
        assert_eq!(Shape::of(&world.host, "vpc1"), before, "after down");
        let mut links = world.host.links();
        links.sort();
        assert_eq!(links, ["lo", UPLINK, "vpc1"]);
    }
}

#[test]
fn a_tap_that_was_down_and_bare_is_given_back_down_and_bare() {
    let world = World::new();
    world.host.ip("tuntap add dev vpc1 mode tap");
    let before = Shape::of(&world.host, "vpc1");
    let mut agent = world.agent("");
    agent.create(&custom("lent", "10.7.0.5/24", "vpc1"));
    assert_ne!(Shape::of(&world.host, "vpc1"), before);
    agent.kill9();
    agent.run();
    agent.change("lent", "stop");
    assert_eq!(Shape::of(&world.host, "vpc1"), before);
}

#[test]
fn a_tap_that_its_owner_deleted_is_named_and_used_again_when_it_is_back() {
    let world = World::new();
    make_own(&world.host);
    let agent = world.agent("");
    agent.create(&custom("lent", "10.7.0.5/24", "vpc1"));
    world.host.ip("link delete dev vpc1");
    wait_until("the instance says that its TAP is gone", SOON, || {
        agent.inspect("lent")["status"] == "error"
    });
    let shown = agent.inspect("lent");
    let reason = shown["reason"].as_str().unwrap();
    assert!(reason.contains("vpc1"), "{reason}");
    assert!(
        world.host.find_ifindex("vpc1").is_none(),
        "it is the user's to make"
    );

    world.host.ip("tuntap add dev vpc1 mode tap");
    // The agent waits longer after each attempt.
    wait_until("it runs again", SOON * 4, || {
        agent.inspect("lent")["status"] == "running"
    });
    let nic = Nic::open(
        &world.host,
        &agent.inspect("lent")["network_interfaces"][0],
        Header::Vnet,
    );
    let wire = world.wire();
    Way::new(&world, &nic, &wire).check(flow(0, 8_000));
    drop(nic);
    agent.delete("lent");
    assert!(world.host.find_ifindex("vpc1").is_some(), "nor to delete");
    let programs = world.host.shell("bpftool net show dev vpc1");
    assert!(!programs.contains("from_vm"), "{programs}");
}

#[test]
fn a_device_that_is_no_free_tap_is_refused() {
    let world = World::new();
    for words in [
        "link add veth9 type veth peer name veth10",
        "tuntap add dev tun9 mode tun",
        "link add bridge9 type bridge",
        "tuntap add dev port9 mode tap",
        "link set dev port9 master bridge9",
    ] {
        world.host.ip(words);
    }
    let agent = world.agent("");
    for name in ["veth9", "tun9", "bridge9", "lo", UPLINK] {
        let text = format!("Device '{name}' exists and is not a TAP device");
        agent.refuse(&custom("refused", "10.7.0.5/24", name), (400, &text));
    }
    let spec = custom("refused", "10.7.0.5/24", "port9").to_string();
    let answer = agent.api("POST", "/v1/instances", &spec);
    assert_eq!(answer.status, 501, "{answer:?}");
    assert!(
        answer.message().starts_with("Not supported yet: "),
        "{answer:?}"
    );
    let link = world.host.json("ip -json link show dev port9");
    assert_eq!(link[0]["master"], "bridge9");
}

#[test]
fn a_custom_tap_that_is_not_there_is_made_with_owner_and_queues_and_deleted_with_its_interface() {
    let world = World::new();
    let agent = world.agent("");
    // Users without a name, so that `ip` prints their numbers.
    let interface = json!({ "ip": "10.7.0.5/24", "tap_name": "exactly15bytes0", "tap_owner": 54_321, "queues": 2 });
    agent.create(&json!({ "name": "made", "network_interfaces": [interface] }));
    let link = world
        .host
        .json("ip -details -json link show dev exactly15bytes0");
    let data = &link[0]["linkinfo"]["info_data"];
    let found = json!([data["type"], data["multi_queue"], data["user"]]);
    assert_eq!(found, json!(["tap", true, 54_321]), "{link}");
    let alias = link[0]["ifalias"].as_str().unwrap();
    assert!(
        alias.starts_with("netagent:") && !alias.ends_with(":lent"),
        "{alias}"
    );
    agent.change("made", "stop");
    assert!(world.host.find_ifindex("exactly15bytes0").is_none());
    agent.change("made", "start");
    assert!(world.host.find_ifindex("exactly15bytes0").is_some());
    agent.delete("made");
    assert!(world.host.find_ifindex("exactly15bytes0").is_none());
    // A single-queue one may be opened by its owner alone.
    let interface = json!({ "ip": "10.7.0.5/24", "tap_name": "vpc0", "tap_owner": 54_321 });
    agent.create(&json!({ "name": "owned", "network_interfaces": [interface] }));
    assert!(Tap::may_open(&world.host, "vpc0", (54_321, 54_321)));
    assert!(!Tap::may_open(&world.host, "vpc0", (54_322, 54_321)));
}

#[test]
fn a_tap_name_is_one_that_a_device_can_have() {
    let world = World::new();
    let agent = world.agent("");
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "../vpc0",
        "a:b",
        "a b",
        " a",
        "a\t",
        "a\n",
        "sixteen-bytes-00",
        "a\u{b}",
        "a\u{7}",
    ] {
        let spec = custom("bad", "10.7.0.5/24", bad);
        let answer = agent.api("POST", "/v1/instances", &spec.to_string());
        assert_eq!(answer.status, 400, "{bad:?}: {answer:?}");
        assert!(
            answer.message().starts_with("Invalid TAP device name"),
            "{bad:?}: {answer:?}"
        );
    }
    for reserved in ["tap0", "tap7", "tap4095", "tap99999"] {
        agent.refuse(
            &custom("bad", "10.7.0.5/24", reserved),
            (
                400,
                "Network interface TAP device cannot be from the platform's device pool",
            ),
        );
    }
    for (number, good) in ["tap", "tapx", "tap1x", "mytap0", "-", "vpc.7"]
        .into_iter()
        .enumerate()
    {
        let spec = custom(
            &format!("good-{number}"),
            &format!("10.7.0.{}/24", number + 1),
            good,
        );
        agent.create(&spec);
        assert!(world.host.find_ifindex(good).is_some(), "{good}");
    }
}
