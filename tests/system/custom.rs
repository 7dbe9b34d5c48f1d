//! Interfaces with addresses and TAPs of the user's own: traffic, isolation, derivation, and TAPs that are lent
//! (I-6 to I-9, I-15, I-16).

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::net::GATEWAY_MAC;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::{Deadline, SOON, wait_until};
use netagent_tests::frame::Frame;
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::neighbour::{self, Claim};
use netagent_tests::netns::NetNs;
use netagent_tests::packet::{self, Packet, hex};
use netagent_tests::ping::ping;
use netagent_tests::raw::Raw;
use netagent_tests::stack::Stack;
use netagent_tests::tap::{Header, Tap};
use netagent_tests::world::{SILENT, UPLINK, World, host_address};
use serde_json::{Value, json};

use crate::exchange::{FlowTo, Protocol, Way};
use crate::surroundings::is_of_the_host;

const fn flow(index: usize, port: u16) -> FlowTo {
    FlowTo {
        protocol: Protocol::Udp,
        remote: SILENT[index],
        ports: (port, 53),
    }
}

/// Everything that reached a guest so far, the host's own discovery apart.
fn reached(nic: &Nic) -> Vec<String> {
    let frames = std::iter::from_fn(|| nic.tap.receive_now());
    frames
        .map(|frame| frame.completed())
        .filter(|bytes| !is_of_the_host(bytes))
        .map(|bytes| hex(&bytes))
        .collect()
}

/// An instance with one custom interface.
fn custom(name: &str, ip: &str, tap_name: &str) -> Value {
    json!({ "name": name, "network_interfaces": [{ "ip": ip, "tap_name": tap_name }] })
}

/// The instance of the guide: one interface of the pool, one of the user's own.
fn my_instance() -> Value {
    json!({
        "name": "my-instance",
        "network_interfaces": [
            { "name": "my-instance-private" },
            { "name": "my-instance-public", "ip": "192.168.0.1/30", "ip6": "fec0::2/64", "tap_name": "vpc0" },
        ],
        "gateway": "192.168.0.100",
        "nameserver": "1.2.3.4",
    })
}

/// A datagram from any source through one TAP; the answer comes back on the same TAP.
fn check_source(world: &World, wire: &Raw, (nic, src): (&Nic, IpAddr), port: u16) {
    let remote = SILENT[usize::from(src.is_ipv6())];
    let way = Way::new(world, nic, wire);
    nic.tap.send_bytes(packet::udp(
        &nic.to(remote).from(src),
        (port, 53),
        b"either source",
    ));
    let nat_port = wire.receive_where(Deadline::after(SOON), |received| {
        let packet = Packet::parse(&received.frame.completed())?;
        let is_it =
            packet.payload == b"either source" && packet.ends.src == host_address(src.is_ipv4());
        is_it.then_some(packet.ports.0)
    });
    wire.send_bytes(packet::udp(&way.back(remote), (53, nat_port), b"and back"));
    let packet = nic.tap.receive_where(Deadline::after(SOON), |frame| {
        Packet::parse(&frame.completed()).filter(|packet| packet.payload == b"and back")
    });
    assert_eq!((packet.ends.dst, packet.ends.dst_mac), (src, nic.mac));
    assert_eq!(packet.ports, (53, port));
}

#[test]
fn every_interface_of_an_instance_reaches_the_world_from_any_address_of_the_instance_alone() {
    for configuration in ["", "[datapath]\nattach = \"clsact\"\n"] {
        let world = World::new();
        world.host.sysctl("net/ipv4/ip_forward", "1");
        world.host.sysctl("net/ipv6/conf/all/forwarding", "1");
        let agent = world.agent(configuration);
        let guest = Guest::create_from(&agent, &world.host, &my_instance(), Header::Vnet);
        let wire = world.wire();
        let [pool, own] = &guest.nics[..] else {
            panic!("two interfaces: {}", guest.answer)
        };
        assert_eq!(
            (own.v4, own.v6),
            (Ipv4Addr::new(192, 168, 0, 1), "fec0::2".parse().unwrap())
        );
        for nic in [pool, own] {
            let way = Way::new(&world, nic, &wire);
            for protocol in Protocol::ALL {
                for remote in SILENT {
                    way.check(FlowTo {
                        protocol,
                        remote,
                        ports: (8_000, 53),
                    });
                }
            }
        }
        let mut port = 8_100;
        for nic in [pool, own] {
            for other in [pool, own] {
                for is_v4 in [true, false] {
                    port += 1;
                    check_source(&world, &wire, (nic, other.address(is_v4)), port);
                }
            }
        }
        // The custom network's other addresses are not the guest's, nor is the rest of its /64.
        let mut spoofed = 0;
        let strangers: [IpAddr; 7] = [
            [192, 168, 0, 2].into(),
            [192, 168, 0, 3].into(),
            [192, 168, 0, 100].into(),
            [172, 16, 0, 6].into(),
            "fec0::3".parse().unwrap(),
            "fec0::2:0:0:2".parse().unwrap(),
            "fec0:0:0:1::2".parse().unwrap(),
        ];
        for nic in [pool, own] {
            for stranger in strangers {
                let ends = nic
                    .to(SILENT[usize::from(stranger.is_ipv6())])
                    .from(stranger);
                nic.tap.send_bytes(packet::udp(&ends, (1, 53), b"spoofed"));
                spoofed += 1;
            }
        }
        check_nothing_leaks(&world, pool, &wire, b"spoofed");
        assert_eq!(
            agent.guest_drops("my-instance"),
            BTreeMap::from([("spoofed_address".to_owned(), spoofed)])
        );
    }
}

/// Nothing with this payload left by the uplink before a valid datagram that is sent now.
fn check_nothing_leaks(world: &World, nic: &Nic, wire: &Raw, payload: &[u8]) {
    let ends = nic.to(SILENT[0]);
    nic.tap
        .send_bytes(packet::udp(&ends, (9_999, 9_999), b"sentinel"));
    loop {
        let received = wire
            .receive(Deadline::after(SOON))
            .expect("the sentinel arrives");
        let Some(packet) = Packet::parse(&received.frame.completed()) else {
            continue;
        };
        assert_ne!(packet.payload, payload, "{}", hex(&received.frame.bytes));
        if packet.payload == b"sentinel" {
            assert_eq!(packet.ends.src_mac, world.uplink_mac());
            return;
        }
    }
}

fn resolve(nic: &Nic, asked: Ipv4Addr) {
    let own = Claim {
        mac: nic.mac,
        ip: nic.v4,
    };
    nic.tap.send_bytes(neighbour::arp_request(own, asked));
    let answer = nic.tap.receive_where(Deadline::after(SOON), |frame| {
        let answer = neighbour::parse_arp_reply(&frame.bytes)?;
        (answer.0.ip == asked).then_some(answer)
    });
    assert_eq!(
        answer,
        (
            Claim {
                mac: GATEWAY_MAC,
                ip: asked
            },
            own
        )
    );
}

#[test]
fn an_off_subnet_gateway_is_answered_for_on_all_interfaces_and_is_nobody() {
    let world = World::new();
    world.host.sysctl("net/ipv4/ip_forward", "1");
    let agent = world.agent("");
    let guest = Guest::create_from(&agent, &world.host, &my_instance(), Header::Vnet);
    let (wire, gateway) = (world.wire(), Ipv4Addr::new(192, 168, 0, 100));
    for nic in &guest.nics {
        for asked in [nic.gateway_v4, gateway] {
            resolve(nic, asked);
        }
        let v6 = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        nic.tap
            .send_bytes(neighbour::solicitation(nic.mac, nic.v6, v6));
        let answer = nic.tap.receive_where(Deadline::after(SOON), |frame| {
            neighbour::parse_advertisement(&frame.bytes)
        });
        assert_eq!(answer, (v6, GATEWAY_MAC));
        // Nobody else is answered for.
        for asked in [[192, 168, 0, 3], [192, 168, 0, 101], [198, 51, 100, 1]] {
            let own = Claim {
                mac: nic.mac,
                ip: nic.v4,
            };
            nic.tap
                .send_bytes(neighbour::arp_request(own, asked.into()));
        }
        // The gateway's address leads nowhere: neither to the world nor to the host.
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            nic.tap
                .send_bytes(protocol.question(&nic.to(gateway), (80, 80), b"to the gateway"));
        }
        check_nothing_leaks(&world, nic, &wire, b"to the gateway");
        let answers = std::iter::from_fn(|| nic.tap.receive_now());
        let answered: Vec<_> = answers
            .filter_map(|frame| neighbour::parse_arp_reply(&frame.bytes))
            .collect();
        assert_eq!(answered, []);
    }
    assert_eq!(
        agent.guest_drops("my-instance").get("arp_unanswered"),
        Some(&6)
    );
}

#[test]
fn the_host_pings_a_custom_guest_over_its_own_route_and_sets_no_other() {
    let world = World::new();
    let agent = world.agent("");
    let mut guest = Guest::create_from(&agent, &world.host, &my_instance(), Header::Vnet);
    let own = guest.nics.remove(1);
    let (v4, v6, gateway) = (IpAddr::V4(own.v4), IpAddr::V6(own.v6), own.gateway_v4);
    let routes = |family: &str| {
        let routes = world
            .host
            .json(&format!("ip -json {family} route show dev vpc0"));
        let destination = |route: &Value| route["dst"].as_str().unwrap().to_owned();
        let mut found: Vec<_> = routes.as_array().unwrap().iter().map(destination).collect();
        found.retain(|destination| !destination.starts_with("fe80"));
        found
    };
    assert_eq!(routes("-4"), ["192.168.0.1"]);
    assert_eq!(routes("-6"), ["fec0::2"]);
    let stack = Stack::boot(own, 1_500);
    for address in [v4, v6] {
        ping(&world.host, address, (3, 56)).unwrap();
    }
    ping(&stack.netns, gateway, (3, 56)).unwrap();
}

#[test]
fn custom_taps_share_a_network_and_reach_neither_each_other_nor_the_pool() {
    let world = World::new();
    world.host.sysctl("net/ipv4/ip_forward", "1");
    world.host.sysctl("net/ipv6/conf/all/forwarding", "1");
    let agent = world.agent("");
    let spec = |name: &str, number: u8| {
        let (ip, ip6) = (format!("10.7.0.{number}/24"), format!("fec0::{number}/64"));
        json!({ "name": name, "network_interfaces": [{ "ip": ip, "ip6": ip6, "tap_name": format!("vpc{number}") }] })
    };
    let one = Guest::create_from(&agent, &world.host, &spec("one", 1), Header::Vnet);
    let two = Guest::create_from(&agent, &world.host, &spec("two", 2), Header::Vnet);
    let pool = Guest::create(&agent, &world.host, "pool", Header::Vnet);
    let wire = world.wire();
    let guests = [&one, &two, &pool];
    let routes = world.host.shell("ip -4 route show");
    assert!(!routes.contains("10.7.0.0/24"), "{routes}");
    for guest in guests {
        for index in [0, 1] {
            Way::new(&world, guest.nic(), &wire).check(flow(index, 8_000));
        }
    }
    for from in guests {
        for to in guests.into_iter().filter(|to| to.name != from.name) {
            for is_v4 in [true, false] {
                let (nic, to) = (from.nic(), to.nic());
                for dst_mac in [GATEWAY_MAC, to.mac] {
                    let ends = packet::Ends {
                        dst_mac,
                        ..nic.to(to.address(is_v4))
                    };
                    for protocol in Protocol::ALL {
                        nic.tap
                            .send_bytes(protocol.question(&ends, (80, 80), b"neighbour"));
                    }
                }
                nic.tap.send_bytes(packet::udp(
                    &nic.to(to.gateway(true)),
                    (80, 80),
                    b"their gateway",
                ));
            }
        }
    }
    for guest in guests {
        let nic = guest.nic();
        let way = Way::new(&world, nic, &wire);
        for remote in SILENT {
            let ends = way.back(remote).to(nic.address(remote.is_ipv4()));
            for protocol in Protocol::ALL {
                wire.send(&Frame::plain(protocol.question(
                    &ends,
                    (80, 80),
                    b"from the world",
                )));
            }
        }
        way.check(flow(0, 8_001));
        way.check(flow(1, 8_001));
    }
    for guest in guests {
        assert_eq!(reached(guest.nic()), [""; 0], "{}", guest.name);
    }
    // ARP for the neighbour's address is not answered: there is no network behind the TAP.
    let own = Claim {
        mac: one.nic().mac,
        ip: one.nic().v4,
    };
    one.nic()
        .tap
        .send_bytes(neighbour::arp_request(own, two.nic().v4));
    Way::new(&world, one.nic(), &wire).check(flow(0, 8_002));
    assert_eq!(agent.guest_drops("one").get("arp_unanswered"), Some(&1));
}

#[test]
fn a_neighbours_ipv6_address_in_the_same_network_is_spoofed() {
    let world = World::new();
    let agent = world.agent("");
    let spec = json!({
        "name": "static",
        "network_interfaces": [{ "ip": "10.7.0.5/24", "ip6": "fec0::2/64", "tap_name": "vpc0" }],
    });
    let guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    let (nic, wire) = (guest.nic(), world.wire());
    let way = Way::new(&world, nic, &wire);
    for index in [1, 3] {
        way.check(flow(index, 8_000));
    }
    let stranger: Ipv6Addr = "fec0::3".parse().unwrap();
    nic.tap.send_bytes(packet::udp(
        &nic.to(SILENT[1]).from(stranger),
        (1, 53),
        b"spoofed",
    ));
    let gateway = nic.to(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
    nic.tap.send_bytes(neighbour::advertisement(
        &gateway.from(stranger),
        stranger,
        nic.mac,
    ));
    nic.tap
        .send_bytes(neighbour::advertisement(&gateway, stranger, nic.mac));
    check_nothing_leaks(&world, nic, &wire, b"spoofed");
    let drops = agent.guest_drops("static");
    assert_eq!(drops.get("spoofed_address"), Some(&1), "{drops:?}");
    assert_eq!(drops.get("spoofed_neighbour"), Some(&2), "{drops:?}");
}

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

#[test]
fn a_guest_with_a_single_address_reaches_the_world_by_a_link_local_gateway() {
    let world = World::new();
    let agent = world.agent("");
    let wire = world.wire();
    for (name, ip, gateway) in [
        ("single", "10.9.0.1/32", [169, 254, 1, 1]),
        ("pair", "10.8.0.0/31", [10, 8, 0, 1]),
    ] {
        let spec = custom(name, ip, &format!("vpc-{name}"));
        let guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
        assert_eq!(guest.nic().gateway_v4, Ipv4Addr::from(gateway));
        resolve(guest.nic(), gateway.into());
        Way::new(&world, guest.nic(), &wire).check(flow(0, 8_000));
    }
}
