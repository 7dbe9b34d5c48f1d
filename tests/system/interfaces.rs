//! Instances and their interfaces as the API gives them: names, reservations, members, life, refusals (I-1 to I-20).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use netagent_tests::agent::Agent;
use netagent_tests::database;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::guest::{Guest, Nic, parse_mac};
use netagent_tests::packet;
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, World};
use serde_json::{Value, json};

use crate::exchange::{FlowTo, Protocol, Way};

const fn flow(port: u16) -> FlowTo {
    FlowTo {
        protocol: Protocol::Udp,
        remote: SILENT[0],
        ports: (port, 53),
    }
}

/// An instance that is not started, so that only what is reserved counts.
fn reserve(agent: &Agent, mut spec: Value) -> Value {
    spec["autostart"] = json!(false);
    let answer = agent.api("POST", "/v1/instances", &spec.to_string());
    assert_eq!(
        (answer.status, &answer.body["status"]),
        (201, &json!("pending")),
        "{spec}: {answer:?}"
    );
    answer.body
}

/// One member of every interface, in order.
fn each(instance: &Value, member: &str) -> Vec<String> {
    let interfaces = instance["network_interfaces"].as_array().unwrap();
    let text = |interface: &Value| interface[member].as_str().unwrap_or_default().to_owned();
    interfaces.iter().map(text).collect()
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

/// The request of the custom network guide, as it is printed there.
const MY_INSTANCE: &str = r#"{
    "name": "my-instance",
    "image": "nginx:latest",
    "network_interfaces": [
      {
        "name": "my-instance-private"
      },
      {
        "name": "my-instance-public",
        "ip": "192.168.0.1/30",
        "tap_name": "vpc0",
        "autoconfig": true
      }
    ],
    "gateway": "192.168.0.100",
    "nameserver": "1.2.3.4"
  }"#;

/// The relay of the same guide.
const MY_GATEWAY: &str = r#"{
    "name": "my-gateway",
    "network_interfaces": [
      {
        "name": "my-gateway-iface"
      }
    ]
  }"#;

/// Its client.
const MY_SANDBOX: &str = r#"{
    "name": "my-sandbox",
    "network_interfaces": [
      {
        "relay": {
          "name": "my-gateway-iface",
          "relay_dns": true
        }
      }
    ]
  }"#;

/// The request of the machine guide.
const WEB_SERVER: &str = r#"{
    "name": "web-server",
    "vcpu_count": 2,
    "mem_size_mib": 512,
    "kernel_image_path": ".hyperfleet/vmlinux",
    "rootfs_path": ".hyperfleet/alpine-rootfs.ext4"
  }"#;

#[test]
fn the_example_requests_of_the_guides_work_as_they_stand() {
    let world = World::new();
    let agent = world.agent("");
    // A-1: the alias answers with the state at its commit.
    let machine = agent.api("POST", "/machines", WEB_SERVER);
    assert_eq!(machine.status, 201, "{machine:?}");
    for (member, value) in [
        ("name", json!("web-server")),
        ("status", json!("pending")),
        ("tap_device", json!("tap0")),
        ("tap_ip", json!("172.16.0.1")),
        ("guest_ip", json!("172.16.0.2")),
        ("guest_mac", json!("AA:FC:00:00:00:01")),
        ("vcpu_count", json!(2)),
        ("rootfs_path", json!(".hyperfleet/alpine-rootfs.ext4")),
    ] {
        assert_eq!(machine.body[member], value, "{member}: {machine:?}");
    }
    wait_until("the machine runs", SOON, || {
        agent.api("GET", "/machines/web-server", "").body["status"] == "running"
    });

    let mine = agent.api("POST", "/v1/instances", MY_INSTANCE);
    assert_eq!(
        (mine.status, &mine.body["status"]),
        (201, &json!("running")),
        "{mine:?}"
    );
    let mine = mine.body;
    assert_eq!(mine["image"], "nginx:latest");
    assert_eq!(
        (&mine["private_ip"], &mine["guest_ip"]),
        (&json!("172.16.0.6"), &json!("172.16.0.6"))
    );
    assert_eq!(
        (&mine["gateway"], &mine["nameserver"]),
        (&json!("192.168.0.100"), &json!("1.2.3.4"))
    );
    assert_eq!(
        each(&mine, "name"),
        ["my-instance-private", "my-instance-public"]
    );
    assert_eq!(each(&mine, "tap_name"), ["tap1", "vpc0"]);
    assert_eq!(each(&mine, "ip"), ["172.16.0.6/30", "192.168.0.1/30"]);
    assert_eq!(each(&mine, "mode"), ["nat", "nat"]);
    assert!(world.host.links().contains(&"vpc0".to_owned()));

    let relay = agent.api("POST", "/v1/instances", MY_GATEWAY);
    assert_eq!(relay.status, 201, "{relay:?}");
    assert_eq!(each(&relay.body, "name"), ["my-gateway-iface"]);
    let client = agent.api("POST", "/v1/instances", MY_SANDBOX);
    assert_eq!(
        (client.status, client.message()),
        (501, "Not supported yet: relay")
    );
    let exposed = WEB_SERVER.replace(
        "\"web-server\",",
        "\"exposed\", \"exposed_ports\": [80, 443, 8080],",
    );
    let exposed = agent.api("POST", "/machines", &exposed);
    assert_eq!(
        (exposed.status, &exposed.body["exposed_ports"]),
        (201, &json!(["80/tcp", "443/tcp", "8080/tcp"])),
        "{exposed:?}"
    );
    let exec = r#"{"cmd": ["ip", "addr", "show", "eth0"]}"#;
    assert_eq!(
        agent.api("POST", "/machines/web-server/exec", exec).status,
        501
    );
}

#[test]
fn an_instance_has_one_to_four_interfaces_and_one_where_none_is_named() {
    let world = World::new();
    let agent = world.agent("");
    let omitted = reserve(&agent, json!({}));
    let empty = reserve(&agent, json!({ "network_interfaces": [{}] }));
    assert_eq!(keys(&omitted), keys(&empty));
    let (omitted, empty) = (&omitted["network_interfaces"], &empty["network_interfaces"]);
    assert_eq!(
        (
            omitted.as_array().map(Vec::len),
            empty.as_array().map(Vec::len)
        ),
        (Some(1), Some(1))
    );
    assert_eq!(keys(&omitted[0]), keys(&empty[0]));
    for member in ["mode", "mtu", "autoconfig", "model", "relay"] {
        assert_eq!(omitted[0][member], empty[0][member], "{member}");
    }
    let four = agent.create(&json!({ "network_interfaces": [{}, {}, {}, {}] }));
    assert_eq!(
        each(&four, "ip"),
        [
            "172.16.0.10/30",
            "172.16.0.14/30",
            "172.16.0.18/30",
            "172.16.0.22/30"
        ]
    );
    assert_eq!(each(&four, "tap_name"), ["tap2", "tap3", "tap4", "tap5"]);
    assert_eq!(four["private_ip"], "172.16.0.10");
    for count in [0, 5] {
        let spec = json!({ "network_interfaces": vec![json!({}); count] });
        let text = format!("An instance has one to four network interfaces, not {count}");
        agent.refuse(&spec, (400, &text));
    }
}

#[test]
fn an_announced_port_of_the_primary_is_shown_kept_and_opens_nothing() {
    let world = World::new();
    let mut agent = world.agent("");
    let spec = json!({ "name": "web", "network_interfaces": [{}, {}] });
    let guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    let announce = |agent: &Agent, ip: &str, port: u16, protocol: &str| {
        let body = json!({ "ip": ip, "port": port, "protocol": protocol });
        let path = "/v1/instances/web/announcements";
        let answer = agent.api("PUT", path, &body.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["accepted"].as_bool().unwrap()
    };
    assert!(announce(&agent, "172.16.0.2", 8_080, "udp"));
    assert!(announce(&agent, "172.16.0.2", 443, "tcp"));
    assert!(
        !announce(&agent, "172.16.0.6", 80, "tcp"),
        "the second interface's"
    );
    assert!(!announce(&agent, "172.16.0.1", 80, "tcp"), "the host's");
    let expected =
        json!([{ "port": 443, "protocol": "tcp" }, { "port": 8_080, "protocol": "udp" }]);
    let shown = |agent: &Agent| {
        let mut ports = agent.inspect("web")["announced_ports"].clone();
        let list = ports.as_array_mut().unwrap();
        list.sort_by_key(|port| port["port"].as_u64());
        ports
    };
    assert_eq!(shown(&agent), expected);

    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    let host = world
        .host
        .run(|| std::net::UdpSocket::bind("0.0.0.0:0"))
        .unwrap();
    host.send_to(b"from the host", "172.16.0.2:8080").unwrap();
    wire.send_bytes(packet::udp(
        &way.back(SILENT[0]),
        (53, 8_080),
        b"from the world",
    ));
    way.check(flow(8_000));
    let unasked = |nic: &Nic| {
        let frames = std::iter::from_fn(|| nic.tap.receive_now());
        frames.map(|frame| frame.completed()).any(|bytes| {
            packet::Packet::parse(&bytes)
                .is_some_and(|packet| packet.payload.starts_with(b"from the "))
        })
    };
    assert!(!guest.nics.iter().any(unasked));

    agent.kill9();
    agent.run();
    assert_eq!(shown(&agent), expected, "they survive the agent");
    for bad in [
        json!({ "ip": "172.16.0.2", "port": 0, "protocol": "tcp" }),
        json!({ "ip": "172.16.0.2", "port": 65_536, "protocol": "tcp" }),
        json!({ "ip": "172.16.0.2", "port": 80, "protocol": "icmp" }),
        json!({ "ip": "somewhere", "port": 80, "protocol": "tcp" }),
        json!({ "port": 80, "protocol": "tcp" }),
        json!({ "ip": "172.16.0.2", "port": 80, "protocol": "tcp", "colour": "red" }),
    ] {
        let path = "/v1/instances/web/announcements";
        let answer = agent.api("PUT", path, &bad.to_string());
        assert_eq!(answer.status, 400, "{bad}: {answer:?}");
        assert!(!answer.message().is_empty(), "{bad}");
    }
}

/// Names that neither an instance nor an interface may have.
const BAD_NAMES: [&str; 16] = [
    "", "-a", "a-", "-", "A", "a_b", "a b", " a", "a/b", "..", ".", "a.b", "a:b", "a\u{7}", "a\n",
    "é",
];

#[test]
fn names_have_63_characters_of_their_form_at_most() {
    let world = World::new();
    let agent = world.agent("");
    let longest = "a".repeat(63);
    let of_64 = "a".repeat(64);
    for bad in BAD_NAMES.into_iter().chain([of_64.as_str()]) {
        let text = format!(
            "Invalid name '{bad}': use up to 63 of a-z, 0-9 and '-', with a letter or digit at both ends"
        );
        agent.refuse(&json!({ "name": bad }), (400, &text));
        agent.refuse(
            &json!({ "network_interfaces": [{ "name": bad }] }),
            (400, &text),
        );
    }
    let long = reserve(
        &agent,
        json!({ "name": longest, "network_interfaces": [{}, { "name": longest }] }),
    );
    assert_eq!(long["name"], longest);
    let names = each(&long, "name");
    assert_eq!(names[1], longest);
    let suffix = names[0].strip_prefix("eth-").unwrap();
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    assert!(
        suffix.len() == 8 && suffix.bytes().all(is_digit),
        "{suffix}"
    );
    // `<name>-eth0` has 63 characters, and 64.
    let (fits, does_not) = ("b".repeat(58), "b".repeat(59));
    let fitting = reserve(&agent, json!({ "name": fits }));
    assert_eq!(each(&fitting, "name"), [format!("{fits}-eth0")]);
    let generated = each(&reserve(&agent, json!({ "name": does_not })), "name");
    assert!(generated[0].starts_with("eth-"), "{generated:?}");
    // Without a name, both are generated, in the form of a name.
    let nameless = reserve(&agent, json!({ "network_interfaces": [{}, {}] }));
    let name = nameless["name"].as_str().unwrap();
    assert_eq!(
        each(&nameless, "name"),
        [format!("{name}-eth0"), format!("{name}-eth1")]
    );
    reserve(
        &agent,
        json!({ "name": "also-legal-0", "network_interfaces": [{ "name": "0" }] }),
    );
}

#[test]
fn names_are_unique_in_the_account_across_instances() {
    let world = World::new();
    let agent = world.agent("");
    reserve(
        &agent,
        json!({ "name": "one", "network_interfaces": [{ "name": "shared" }, { "name": "two-eth0" }] }),
    );
    let taken = |name: &str| format!("Network interface name '{name}' is already in use");
    agent.refuse(
        &json!({ "name": "one" }),
        (409, "Instance name 'one' is already in use"),
    );
    agent.refuse(
        &json!({ "name": "other", "network_interfaces": [{}, { "name": "shared" }] }),
        (409, &taken("shared")),
    );
    // The name that would be generated is another's: it gets one as if it were too long.
    let generated = each(&reserve(&agent, json!({ "name": "two" })), "name");
    assert!(generated[0].starts_with("eth-"), "{generated:?}");
    let twice = json!({ "network_interfaces": [{ "name": "twice" }, { "name": "twice" }] });
    let answer = agent.api("POST", "/v1/instances", &twice.to_string());
    assert!(matches!(answer.status, 400 | 409), "{answer:?}");
    assert!(answer.message().contains("'twice'"), "{answer:?}");
    // An instance and an interface are two kinds of objects.
    reserve(&agent, json!({ "name": "shared" }));
    agent.delete("one");
    reserve(
        &agent,
        json!({ "name": "one", "network_interfaces": [{ "name": "two-eth0" }] }),
    );
}

/// Loopback, uplink and the way to the servers are all that is there.
fn assert_no_tap(world: &World) {
    let links = world.host.links();
    assert_eq!(links.len(), 3, "{links:?}");
}

#[test]
fn reservations_survive_stop_start_and_restart_and_are_released_by_delete() {
    let world = World::new();
    let mut agent = world.agent("");
    let custom = json!({ "ip": "10.7.0.5/24", "tap_name": "vpc0" });
    let made = agent.create(&json!({ "name": "cycled", "network_interfaces": [{}, custom] }));
    let pending = reserve(&agent, json!({ "name": "pending" }));
    assert_eq!(each(&pending, "tap_name"), ["tap1"]);
    let reserved = |agent: &Agent, before: &Value, status: &str| {
        let now = agent.inspect(before["name"].as_str().unwrap());
        assert_eq!(now["status"], status, "{now}");
        for member in [
            "id",
            "private_ip",
            "gateway",
            "nameserver",
            "guest_mac",
            "tap_device",
        ] {
            assert_eq!(now[member], before[member], "{member}");
        }
        for member in ["id", "name", "tap_name", "ip", "ip6", "tap_ip", "mac"] {
            assert_eq!(each(&now, member), each(before, member), "{member}");
        }
    };
    agent.change("cycled", "stop");
    reserved(&agent, &made, "stopped");
    assert_no_tap(&world);
    for is_killed in [true, false] {
        if is_killed {
            agent.kill9();
        } else {
            agent.stop();
        }
        agent.run();
        reserved(&agent, &made, "stopped");
        reserved(&agent, &pending, "pending");
    }
    // What is reserved is nobody else's, whatever its instance does.
    let next = agent.create(&json!({ "name": "next" }));
    assert_eq!(
        (each(&next, "tap_name"), each(&next, "ip")),
        (vec!["tap2".into()], vec!["172.16.0.10/30".into()])
    );
    agent.refuse(
        &json!({ "network_interfaces": [{ "ip": "10.7.0.5/24", "tap_name": "vpc1" }] }),
        (
            409,
            "Network interface IP address '10.7.0.5/24' is already in use",
        ),
    );
    agent.refuse(
        &json!({ "network_interfaces": [{ "ip": "10.7.0.6/24", "tap_name": "vpc0" }] }),
        (
            409,
            "TAP device 'vpc0' is already in use by another network interface",
        ),
    );
    for _ in 0..2 {
        agent.change("cycled", "start");
        reserved(&agent, &made, "running");
    }
    agent.kill9();
    agent.run();
    reserved(&agent, &made, "running");
    agent.delete("cycled");
    let heir = agent.create(
        &json!({ "network_interfaces": [{}, { "ip": "10.7.0.5/24", "tap_name": "vpc0" }] }),
    );
    assert_eq!(each(&heir, "tap_name"), ["tap0", "vpc0"]);
    assert_eq!(each(&heir, "ip"), ["172.16.0.2/30", "10.7.0.5/24"]);
}

#[test]
fn macs_follow_the_slot_or_are_random_and_kept_or_the_users() {
    let world = World::new();
    let mut agent = world.agent("");
    let custom = |tap: &str, ip: &str| json!({ "ip": ip, "tap_name": tap });
    let own = json!({ "mac": "02:00:00:00:00:0a" });
    let made = agent.create(&json!({
        "name": "macs",
        "network_interfaces": [{}, custom("vpc0", "10.7.0.1/24"), custom("vpc1", "10.7.0.2/24"), own],
    }));
    let macs = each(&made, "mac");
    assert_eq!(
        (macs[0].as_str(), macs[3].to_ascii_lowercase().as_str()),
        ("AA:FC:00:00:00:01", "02:00:00:00:00:0a")
    );
    for random in &macs[1..3] {
        let mac = parse_mac(random);
        assert_eq!(mac[0] & 3, 2, "{random}: unicast and locally administered");
        assert_ne!(mac[..2], [0xaa, 0xfc], "{random}");
    }
    assert_ne!(macs[1], macs[2]);
    for tap in ["tap0", "vpc0", "vpc1"] {
        assert_eq!(world.host.mac(tap), [0xfe, 0xfc, 0, 0, 0, 1], "{tap}");
    }
    agent.change("macs", "stop");
    agent.kill9();
    agent.run();
    assert_eq!(each(&agent.change("macs", "start"), "mac"), macs);

    let with = |mac: &str| json!({ "network_interfaces": [{ "mac": mac }] });
    for bad in [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:0g",
        "02:00:00:00:00:01:02",
        "0200.0000.0001",
    ] {
        agent.refuse(&with(bad), (400, &format!("Invalid MAC address '{bad}'")));
    }
    for multicast in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"] {
        let text = "Network interface MAC address must be a unicast address";
        agent.refuse(&with(multicast), (400, text));
    }
    // The pool's own form, and the address that means none.
    for reserved in [
        "AA:FC:00:00:00:09",
        "aa:fc:12:34:56:78",
        "00:00:00:00:00:00",
    ] {
        agent.refuse(
            &with(reserved),
            (400, &format!("Invalid MAC address '{reserved}'")),
        );
    }
    for taken in ["02:00:00:00:00:0a", "02:00:00:00:00:0A"] {
        let answer = agent.api("POST", "/v1/instances", &with(taken).to_string());
        assert_eq!(answer.status, 409, "{answer:?}");
        let text = answer.message().to_ascii_lowercase();
        assert_eq!(text, "mac address '02:00:00:00:00:0a' is already in use");
    }
}

#[test]
fn an_instance_is_pending_running_and_stopped_and_says_whether_a_vmm_holds_its_tap() {
    let world = World::new();
    let agent = world.agent("");
    let pending = reserve(&agent, json!({ "name": "life" }));
    assert!(
        !world.host.links().contains(&"tap0".to_owned()),
        "nothing is made before the start"
    );
    // Stopping what never ran changes nothing of its reservations.
    let attached =
        |agent: &Agent| agent.inspect("life")["network_interfaces"][0]["attached"].clone();
    assert_eq!(agent.change("life", "start")["status"], "running");
    assert_eq!(attached(&agent), false);
    let nic = Nic::open(&world.host, &pending["network_interfaces"][0], Header::Vnet);
    assert_eq!(attached(&agent), true);
    let wire = world.wire();
    Way::new(&world, &nic, &wire).check(flow(8_000));
    drop(nic);
    wait_until("the TAP is free", SOON, || attached(&agent) == false);
    let before = world.host.ifindex("tap0");
    assert_eq!(agent.change("life", "start")["status"], "running");
    assert_eq!(
        world.host.ifindex("tap0"),
        before,
        "a running instance stays as it is"
    );
    for _ in 0..2 {
        assert_eq!(agent.change("life", "stop")["status"], "stopped");
        assert!(!world.host.links().contains(&"tap0".to_owned()));
    }
    assert_eq!(
        agent.inspect("life")["network_interfaces"][0]["attached"],
        false
    );
    agent.delete("life");
    for (method, path) in [
        ("GET", "/v1/instances/life"),
        ("DELETE", "/v1/instances/life"),
        ("PUT", "/v1/instances/life/start"),
        ("PUT", "/v1/instances/life/stop"),
    ] {
        let answer = agent.api(method, path, "");
        assert_eq!(
            (answer.status, answer.message()),
            (404, "Instance 'life' not found"),
            "{method} {path}"
        );
    }
}

fn is_uuid(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.len() == 36 && text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
}

/// Members of every interface (I-14).
const MEMBERS: [&str; 11] = [
    "id",
    "name",
    "mode",
    "tap_name",
    "ip",
    "ip6",
    "tap_ip",
    "mac",
    "mtu",
    "autoconfig",
    "relay",
];

fn check_interface(interface: &Value) {
    let missing: Vec<_> = MEMBERS
        .iter()
        .filter(|member| interface.get(**member).is_none())
        .collect();
    assert!(missing.is_empty(), "{missing:?}: {interface}");
    assert!(is_uuid(&interface["id"]), "{interface}");
    assert_eq!(
        (&interface["mtu"], &interface["relay"]),
        (&json!(1_500), &Value::Null)
    );
    let host = interface["tap_ip"].as_str().unwrap();
    assert!(host.parse::<Ipv4Addr>().is_ok(), "tap_ip is bare: {host}");
}

#[test]
fn create_answers_with_everything_that_a_vmm_needs() {
    let world = World::new();
    let agent = world.agent("");
    let custom = json!({
        "ip": "10.7.0.5/24", "ip6": "fec0::2/64", "tap_name": "vpc0", "autoconfig": false, "model": "e1000",
    });
    let spec =
        json!({ "name": "all", "network_interfaces": [custom, {}], "tags": ["a", { "b": 1 }] });
    let made = agent.create(&spec);
    assert!(is_uuid(&made["id"]), "{made}");
    let interfaces = &made["network_interfaces"];
    interfaces
        .as_array()
        .unwrap()
        .iter()
        .for_each(check_interface);
    // The flat members are the primary's; gateway and server come from the pool interface (I-16).
    let flat = json!({
        "name": "all", "status": "running", "private_ip": "10.7.0.5", "guest_ip": "10.7.0.5", "tap_device": "vpc0",
        "gateway": "172.16.0.1", "nameserver": "172.16.0.1", "guest_mac": interfaces[0]["mac"],
        "tap_ip": interfaces[0]["tap_ip"], "tags": ["a", { "b": 1 }],
    });
    for (member, value) in flat.as_object().unwrap() {
        assert_eq!(&made[member], value, "{member}: {made}");
    }
    let first = json!({ "name": "all-eth0", "ip": "10.7.0.5/24", "ip6": "fec0::2/64", "autoconfig": false });
    for (member, value) in first.as_object().unwrap() {
        assert_eq!(&interfaces[0][member], value, "{member}: {made}");
    }
    let pool_v6 = interfaces[1]["ip6"].as_str().unwrap();
    assert!(pool_v6.ends_with("::2/64"), "{pool_v6}");
    // The same is shown later, by name and by id.
    for key in ["all", made["id"].as_str().unwrap()] {
        let shown = agent.inspect(key);
        for member in keys(&made)
            .into_iter()
            .filter(|member| *member != "network_interfaces")
        {
            assert_eq!(shown[member], made[member], "{member}");
        }
        for member in MEMBERS {
            assert_eq!(
                shown["network_interfaces"][0][member], interfaces[0][member],
                "{member}"
            );
        }
    }
    let list = agent.api("GET", "/v1/instances", "").body;
    assert_eq!(list[0]["id"], made["id"]);
}

#[test]
fn an_interface_that_the_guest_does_not_configure_is_attached_and_filtered_all_the_same() {
    let world = World::new();
    let agent = world.agent("");
    let spec = json!({ "name": "by-hand", "network_interfaces": [{ "autoconfig": false }] });
    let guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    assert_eq!(guest.answer["network_interfaces"][0]["autoconfig"], false);
    let (nic, wire) = (guest.nic(), world.wire());
    let way = Way::new(&world, nic, &wire);
    way.check(flow(8_000));
    let stranger = nic.to(SILENT[0]).from([172, 16, 0, 6]);
    nic.tap
        .send_bytes(packet::udp(&stranger, (1, 53), b"spoofed"));
    way.check(flow(8_001));
    assert_eq!(
        agent.guest_drops("by-hand").get("spoofed_address"),
        Some(&1)
    );
}

#[test]
fn the_topology_of_an_instance_cannot_be_changed() {
    let world = World::new();
    let agent = world.agent("");
    reserve(&agent, json!({ "name": "fixed" }));
    let before = agent.inspect("fixed");
    let text = "Network interfaces cannot be changed after creation";
    let bodies = [
        json!({ "network_interfaces": [{}, {}] }),
        json!({ "gateway": "10.0.0.1" }),
        json!({}),
    ];
    for body in bodies.map(|body| body.to_string()) {
        for prefix in ["/v1/instances", "/machines"] {
            for method in ["PATCH", "PUT"] {
                let path = format!("{prefix}/fixed");
                let answer = agent.api(method, &path, &body);
                assert_eq!(
                    (answer.status, answer.message()),
                    (409, text),
                    "{method} {path} {body}"
                );
            }
        }
    }
    assert_eq!(agent.inspect("fixed"), before);
}

#[test]
fn a_template_has_no_network_configuration_and_several_interfaces_cannot_be_copied() {
    let world = World::new();
    let agent = world.agent("");
    let custom = json!({ "ip": "10.7.0.5/24", "tap_name": "vpc0" });
    reserve(
        &agent,
        json!({
            "name": "several", "network_interfaces": [{}, custom], "gateway": "10.7.0.9", "nameserver": "1.1.1.1",
            "image": "nginx:latest", "vcpu_count": 2, "tags": ["x"], "network_policy": "allow-all",
        }),
    );
    reserve(&agent, json!({ "name": "single" }));
    let ask =
        |name: &str, what: &str| agent.api("POST", &format!("/v1/instances/{name}/{what}"), "");
    let template = ask("several", "template");
    assert_eq!(template.status, 200, "{template:?}");
    for (member, value) in [
        ("image", json!("nginx:latest")),
        ("vcpu_count", json!(2)),
        ("tags", json!(["x"])),
    ] {
        assert_eq!(template.body[member], value, "{template:?}");
    }
    for dropped in [
        "network_interfaces",
        "gateway",
        "nameserver",
        "publish",
        "id",
        "status",
    ] {
        assert_eq!(template.body.get(dropped), None, "{template:?}");
    }
    for (what, done) in [("branch", "branched"), ("checkpoint", "checkpointed")] {
        let several = ask("several", what);
        let text = format!("Instances with more than one network interface cannot be {done}");
        assert!((400..410).contains(&several.status), "{several:?}");
        assert_eq!(several.message(), text);
        // A branch of one is a clone, which comes later.
        let single = ask("single", what);
        assert_eq!(single.status, 501, "{single:?}");
        assert_eq!(ask("nobody", what).status, 404);
    }
    assert_eq!(ask("nobody", "template").status, 404);
}

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
        r#"{"network_policy": "deny-all"}"#,
        501,
        "Not supported yet: network_policy",
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
fn a_name_that_many_ask_for_at_once_goes_to_one_of_them() {
    const COUNT: usize = 32;
    let world = World::new();
    let agent = world.agent("");
    let body = json!({ "name": "contested", "autostart": false }).to_string();
    let create = || agent.api("POST", "/v1/instances", &body);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..COUNT).map(|_| scope.spawn(create)).collect();
        let answers = asked.into_iter().map(|answer| answer.join().unwrap());
        answers.collect()
    });
    let count = |status| {
        answers
            .iter()
            .filter(|answer| answer.status == status)
            .count()
    };
    assert_eq!((count(201), count(409)), (1, COUNT - 1), "{answers:?}");
    let list = agent.api("GET", "/v1/instances", "").body;
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
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
