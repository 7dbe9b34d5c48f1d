//! Addresses of the user's own: which may be taken, and what is derived from them.

use netagent_tests::world::World;
use serde_json::{Value, json};

use crate::custom::custom;

const POOL_ADDRESS: &str =
    "Network interface IP address cannot be from the platform's address pool";
const NOT_AVAILABLE: &str = "Network interface IP address is not available on this host";

/// Addresses that are the pool's or the host's; the uplink also has 10.50.0.2/24, another device 192.168.77.1/24.
const REFUSED_V4: [(&str, &str); 14] = [
    ("172.16.0.2/30", POOL_ADDRESS),
    ("172.16.200.1/24", POOL_ADDRESS),
    ("172.16.255.255/32", POOL_ADDRESS),
    // Networks that hold the pool.
    ("172.31.0.1/12", POOL_ADDRESS),
    ("172.17.0.1/15", POOL_ADDRESS),
    ("128.0.0.1/1", POOL_ADDRESS),
    ("8.8.8.8/32", NOT_AVAILABLE),
    ("203.0.113.9/24", NOT_AVAILABLE),
    ("198.51.100.9/32", NOT_AVAILABLE),
    ("10.50.0.9/24", NOT_AVAILABLE),
    ("10.50.0.9/16", NOT_AVAILABLE),
    ("10.50.0.2/32", NOT_AVAILABLE),
    ("192.168.77.1/32", NOT_AVAILABLE),
    ("192.168.77.9/24", NOT_AVAILABLE),
];

/// What is no address that a host can have.
const MALFORMED_V4: [&str; 16] = [
    "192.168.0.0/30",
    "192.168.0.3/30",
    "169.254.7.7/16",
    "127.0.0.1/8",
    "224.0.0.1/24",
    "0.0.0.0/32",
    "",
    "10.7.0.5/33",
    "10.7.0.5/",
    "/24",
    "10.7.0/24",
    "10.7.0.5/24/1",
    "10.7.0.5/-1",
    "fec0::2/64",
    "::ffff:10.7.0.5/120",
    "::ffff:10.7.0.5/24",
];

#[test]
fn a_custom_address_overlaps_neither_the_pool_nor_the_host() {
    let world = World::new();
    for words in [
        "address add 10.50.0.2/24 dev uplink0",
        "link add inner0 type veth peer name inner1",
        "address add 192.168.77.1/24 dev inner0",
        "link set inner0 up",
    ] {
        world.host.ip(words);
    }
    let agent = world.agent("");
    for (ip, text) in REFUSED_V4 {
        agent.refuse(&custom("refused", ip, "vpc0"), (400, text));
    }
    for bad in MALFORMED_V4 {
        let spec = custom("bad", bad, "vpc0").to_string();
        let answer = agent.api("POST", "/v1/instances", &spec);
        assert_eq!(answer.status, 400, "{bad}: {answer:?}");
        assert!(answer.message().contains(bad), "{bad}: {answer:?}");
    }
    // Host bits are the address; a neighbour of the host's own address is none of it.
    for (number, ip) in [
        "192.168.0.1/30",
        "192.168.77.9/32",
        "100.64.0.1/10",
        "10.7.0.5/24",
    ]
    .into_iter()
    .enumerate()
    {
        agent.create(&custom(
            &format!("good-{number}"),
            ip,
            &format!("vpc{number}"),
        ));
    }
    let taken = "Network interface IP address '10.7.0.5/24' is already in use";
    agent.refuse(&custom("taken", "10.7.0.5/24", "vpc9"), (409, taken));
    // The prefix is shared, not the address.
    agent.create(&custom("neighbour", "10.7.0.6/24", "vpc9"));
}

#[test]
fn a_custom_ipv6_address_overlaps_neither_the_pool_nor_the_host() {
    let world = World::new();
    world.host.ip("link add inner0 type veth peer name inner1");
    world.host.ip("address add fd77::1/64 dev inner0 nodad");
    world.host.ip("link set inner0 up");
    let agent = world.agent("[pool]\nsubnet6 = \"fd12:3456:789a::/48\"\n");
    let spec = |name: &str, ip6: &str, number: usize| {
        json!({ "name": name, "network_interfaces": [
            { "ip": format!("10.7.0.{number}/24"), "ip6": ip6, "tap_name": format!("vpc{number}") },
        ] })
    };
    for (ip6, text) in [
        ("fd12:3456:789a::2/64", POOL_ADDRESS),
        ("fd12:3456:789a:ffff::2/64", POOL_ADDRESS),
        ("2001:db8:300::2/64", NOT_AVAILABLE),
        ("2001:db8:100::9/64", NOT_AVAILABLE),
        ("fd77::1/128", NOT_AVAILABLE),
        ("fd77::9/64", NOT_AVAILABLE),
    ] {
        agent.refuse(&spec("refused", ip6, 99), (400, text));
    }
    for bad in [
        "::ffff:10.7.0.5/120",
        "10.7.0.5/24",
        "fec0::2/129",
        "fd12:3456::2/32",
        "fe80::2/64",
        "ff02::1/64",
        "::1/128",
        "fec0::2/",
        "fec0:::2/64",
        "",
    ] {
        let answer = agent.api("POST", "/v1/instances", &spec("bad", bad, 99).to_string());
        assert_eq!(answer.status, 400, "{bad}: {answer:?}");
        assert!(answer.message().contains(bad), "{bad}: {answer:?}");
    }
    for (number, ip6) in ["fec0::2/64", "fec0::3/64", "fd00:1::2/64", "fec0::4/128"]
        .into_iter()
        .enumerate()
    {
        agent.create(&spec(&format!("good-{number}"), ip6, number + 1));
    }
    agent.refuse(
        &spec("taken", "fec0::2/64", 99),
        (
            409,
            "Network interface IP address 'fec0::2/64' is already in use",
        ),
    );
}

/// Interfaces as addresses, "" for one of the pool; and what the guest is told, "" for the first pool interface's.
const DERIVED: [(&[&str], &str); 12] = [
    (&["", "10.7.0.5/24"], ""),
    (&["10.7.0.5/24", ""], ""),
    (&["10.7.0.5/24", "10.8.0.5/24", "", ""], ""),
    (&["192.168.0.1/30"], "192.168.0.2"),
    (&["192.168.0.2/30"], "192.168.0.1"),
    (&["10.7.0.5/24"], "10.7.0.254"),
    (&["10.7.0.254/24"], "10.7.0.1"),
    (&["10.7.1.5/23"], "10.7.1.254"),
    (&["10.8.0.0/31"], "10.8.0.1"),
    (&["10.8.0.1/31"], "10.8.0.0"),
    (&["10.9.0.1/32"], "169.254.1.1"),
    (&["10.7.0.5/24", "192.168.0.1/30"], "10.7.0.254"),
];

#[test]
fn gateway_and_nameserver_come_from_the_first_pool_interface_or_the_end_of_the_primarys_network() {
    let world = World::new();
    let agent = world.agent("");
    for (addresses, expected) in DERIVED {
        let entry = |(number, ip): (usize, &&str)| match *ip {
            "" => json!({}),
            ip => json!({ "ip": ip, "tap_name": format!("vpc{number}") }),
        };
        let entries: Vec<_> = addresses.iter().enumerate().map(entry).collect();
        let mut spec = json!({ "name": "derived", "network_interfaces": entries });
        let made = agent.create(&spec);
        let interfaces = made["network_interfaces"].as_array().unwrap();
        let is_pool = |one: &&Value| one["tap_name"].as_str().unwrap().starts_with("tap");
        let pool = interfaces.iter().find(is_pool);
        let expected = pool.map_or(json!(expected), |one| one["tap_ip"].clone());
        let told = |made: &Value| (made["gateway"].clone(), made["nameserver"].clone());
        assert_eq!(
            told(&made),
            (expected.clone(), expected.clone()),
            "{addresses:?}"
        );
        let primary = interfaces[0]["ip"].as_str().unwrap().split('/').next();
        assert_eq!(made["private_ip"].as_str(), primary, "{addresses:?}");
        agent.delete("derived");
        // Each overrides on its own.
        spec["gateway"] = json!("10.99.0.1");
        let overridden = told(&agent.create(&spec));
        assert_eq!(
            overridden,
            (json!("10.99.0.1"), expected.clone()),
            "{addresses:?}"
        );
        agent.delete("derived");
        spec["gateway"] = Value::Null;
        spec["nameserver"] = json!("2001:db8::53");
        let overridden = told(&agent.create(&spec));
        assert_eq!(
            overridden,
            (expected, json!("2001:db8::53")),
            "{addresses:?}"
        );
        agent.delete("derived");
    }
}

#[test]
fn a_gateway_and_a_nameserver_are_bare_addresses() {
    let world = World::new();
    let agent = world.agent("");
    for (member, bad) in [
        ("gateway", "nowhere"),
        ("gateway", "10.0.0.1/24"),
        ("gateway", "fe80::1"),
        ("gateway", ""),
        ("nameserver", "nowhere"),
        ("nameserver", "1.2.3"),
        ("nameserver", "dns.example"),
        ("nameserver", ""),
    ] {
        let answer = agent.api("POST", "/v1/instances", &json!({ member: bad }).to_string());
        assert_eq!(answer.status, 400, "{member} {bad}: {answer:?}");
        assert!(answer.message().contains(bad), "{answer:?}");
    }
}
