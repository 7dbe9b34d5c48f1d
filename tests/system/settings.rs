//! The host's own settings: those that others change under the agent, those that it cannot work with, and those
//! that it changes for as long as it runs.

use std::iter;
use std::time::Duration;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{Deadline, wait_until};
use netagent_tests::frame::Frame;
use netagent_tests::guest::Guest;
use netagent_tests::netns::NetNs;
use netagent_tests::packet::{self, Packet};
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, UPLINK, World, host_address};
use serde_json::json;

use crate::exchange::{FlowTo, Protocol, Way};

/// Longer than the agent takes from one look at the host to the next.
const A_ROUND: Duration = Duration::from_secs(40);

/// Settings of a TAP that writing a setting of the whole host changes.
const FORWARDING: [(&str, &str); 2] = [
    ("net/ipv4/ip_forward", "net/ipv4/conf"),
    ("net/ipv6/conf/all/forwarding", "net/ipv6/conf"),
];

#[test]
fn taps_stay_closed_to_the_hosts_forwarding_when_others_switch_it_on() {
    let world = World::new();
    let agent = world.agent("");
    let taps = ["a", "b"].map(|name| {
        let answer = agent.create(&json!({ "name": name }));
        let name = answer["network_interfaces"][0]["tap_name"].as_str();
        name.expect("the TAP has a name").to_owned()
    });
    for (all, each) in FORWARDING {
        let forwards = |name: &str| {
            let setting = world.host.read_sysctl(&format!("{each}/{name}/forwarding"));
            setting.as_deref() == Some("1")
        };
        assert!(!taps.iter().any(|tap| forwards(tap)));
        world.host.sysctl(all, "1");
        assert!(forwards(UPLINK), "{all} is what all devices get");
    }
    // Any change of a link is a reason to look.
    world
        .host
        .ip("link add trigger0 type veth peer name trigger1");
    for (all, each) in FORWARDING {
        wait_until("every TAP is closed again", A_ROUND, || {
            let forwards = |tap: &String| {
                let setting = world.host.read_sysctl(&format!("{each}/{tap}/forwarding"));
                setting.as_deref() != Some("0")
            };
            !taps.iter().any(forwards)
        });
        assert_eq!(
            world.host.read_sysctl(all).as_deref(),
            Some("1"),
            "what others want stays"
        );
    }
}

/// Takes every program off the uplink and a TAP, as an administrator's `tc` or `bpftool` does.
fn take_off(world: &World, agent: &Agent, tap: &str, attach: &str) {
    if attach == "clsact" {
        for device in [tap, UPLINK] {
            world
                .host
                .shell(&format!("tc qdisc delete dev {device} clsact"));
        }
        return;
    }
    let detach = |pin: &std::path::PathBuf| {
        let line = format!("bpftool link detach pinned {}", pin.display());
        world.host.try_shell(&line).status.success()
    };
    // Links on devices are pinned under the device's index.
    let is_on_a_device = |pin: &&std::path::PathBuf| {
        let name = pin.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(|first: char| first.is_ascii_digit())
    };
    let pins = agent.pins().pins();
    let pins = pins.iter().filter(is_on_a_device);
    let links = pins.filter(|pin| detach(pin)).count();
    let expected = "two of the TAP, one of the uplink, one of the way to the servers";
    assert_eq!(links, 4, "{expected}");
}

/// Whether a question of the guest, and the answer to it, arrive. While the agent mends it, the TAP may be down.
fn answered(way: &Way<'_>) -> bool {
    const AT_ONCE: Duration = Duration::from_millis(200);
    const QUESTION: &[u8] = b"is it mended";
    let (remote, deadline) = (SILENT[0], Deadline::after(AT_ONCE));
    let question = packet::udp(&way.nic.to(remote), (9_300, 7), QUESTION);
    if way.nic.tap.try_send(&Frame::plain(question)).is_err() {
        return false;
    }
    let mut arrived = iter::from_fn(|| way.wire.receive(deadline));
    let port = arrived.find_map(|received| {
        let packet = Packet::parse(&received.frame.bytes)?;
        let is_it = packet.payload == QUESTION && packet.ends.src == host_address(true);
        is_it.then_some(packet.ports.0)
    });
    let Some(port) = port else {
        return false;
    };
    let answer = packet::udp(&way.back(remote), (7, port), b"it is");
    way.wire.send_bytes(answer);
    let mut delivered = iter::from_fn(|| way.nic.tap.receive(deadline));
    delivered.any(|frame| {
        Packet::parse(&frame.completed()).is_some_and(|packet| packet.payload == b"it is")
    })
}

#[test]
fn programs_that_others_took_off_are_put_back_within_a_round() {
    for attach in ["tcx", "clsact"] {
        let world = World::new();
        let agent = world.agent(&format!("[datapath]\nattach = \"{attach}\"\n"));
        let guest = Guest::create(&agent, &world.host, "bare", Header::Vnet);
        let (wire, tap) = (world.wire(), &guest.nic().tap_name);
        let way = Way::new(&world, guest.nic(), &wire);
        take_off(&world, &agent, tap, attach);
        wait_until("the programs are back", A_ROUND, || answered(&way));
        for remote in SILENT {
            way.check(FlowTo {
                protocol: Protocol::Udp,
                remote,
                ports: (9_200, 7),
            });
        }
    }
}

/// Guests work over IPv4, and have no IPv6.
fn check_v4_only(world: &World) {
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "four", Header::Vnet);
    assert!(guest.nic().v6.is_unspecified(), "no IPv6: {}", guest.answer);
    let wire = world.wire();
    let way = Way::new(world, guest.nic(), &wire);
    for protocol in Protocol::ALL {
        way.check(FlowTo {
            protocol,
            remote: SILENT[0],
            ports: (9_100, 7),
        });
    }
}

fn disable_v6(netns: &NetNs, names: &[&str]) {
    for name in names {
        netns.sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1");
    }
}

#[test]
fn instances_start_on_a_host_that_has_ipv6_on_loopback_alone() {
    let world = World::new();
    disable_v6(&world.host, &["default", UPLINK]);
    let addresses = world.host.shell("ip -6 address show");
    assert!(addresses.contains("::1/128"), "{addresses}");
    assert!(!addresses.contains(UPLINK), "{addresses}");
    check_v4_only(&world);
}

#[test]
fn instances_start_on_a_host_without_ipv6() {
    let world = World::new();
    disable_v6(&world.host, &["all", "default"]);
    assert_eq!(world.host.shell("ip -6 address show"), "");
    check_v4_only(&world);
}

#[test]
fn guests_have_ipv6_where_the_uplink_has_it_though_new_links_get_none() {
    let world = World::new();
    disable_v6(&world.host, &["default"]);
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "six", Header::Vnet);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    for remote in SILENT {
        way.check(FlowTo {
            protocol: Protocol::Udp,
            remote,
            ports: (9_100, 7),
        });
    }
}

/// Whether an uplink gathers segments into lists.
pub(crate) fn gathers_lists(host: &NetNs, name: &str) -> bool {
    let features = host.shell(&format!("ethtool --show-features {name}"));
    let line = features
        .lines()
        .find_map(|line| line.trim().strip_prefix("rx-gro-list:"));
    line.expect("every kernel since 5.6 has it")
        .trim()
        .starts_with("on")
}

#[test]
fn the_uplink_gathers_no_lists_while_the_agent_runs_and_what_was_set_comes_back() {
    for configuration in ["", "[datapath]\nattach = \"clsact\"\n"] {
        for before in [true, false] {
            let world = World::new();
            let word = if before { "on" } else { "off" };
            world
                .host
                .shell(&format!("ethtool --features {UPLINK} rx-gro-list {word}"));
            assert_eq!(gathers_lists(&world.host, UPLINK), before);
            let mut agent: Agent = world.agent(configuration);
            assert!(!gathers_lists(&world.host, UPLINK), "it was {word}");
            agent.kill9();
            agent.run();
            assert!(
                !gathers_lists(&world.host, UPLINK),
                "started again: it was {word}"
            );
            agent.stop();
            agent.cli("down", &[]);
            assert_eq!(gathers_lists(&world.host, UPLINK), before, "it was {word}");
        }
    }
}

/// Ports that the kernel gives to nobody who asks for any.
fn reserved(host: &NetNs) -> String {
    let text = host.shell("cat /proc/sys/net/ipv4/ip_local_reserved_ports");
    text.trim().to_owned()
}

#[test]
fn ports_for_guests_are_reserved_while_the_agent_is_there_and_what_others_reserved_stays() {
    const SETTING: &str = "net/ipv4/ip_local_reserved_ports";
    for (before, during, added, after) in [
        ("", "16384-29999", "16384-29999,40000", "40000"),
        (
            "80,5000-5100,20000-30010",
            "80,5000-5100,16384-30010",
            "80,5000-5100,16384-30010,40000",
            "80,5000-5100,20000-30010,40000",
        ),
        // The whole range is somebody else's.
        (
            "16384-30000",
            "16384-30000",
            "16384-30000,40000",
            "16384-30000,40000",
        ),
    ] {
        let world = World::new();
        let host = &world.host;
        host.sysctl(SETTING, before);
        let mut agent = world.agent("");
        assert_eq!(reserved(host), during);
        agent.kill9();
        assert_eq!(
            reserved(host),
            during,
            "the datapath stays, and so do its ports"
        );
        agent.run();
        assert_eq!(reserved(host), during);
        host.sysctl(SETTING, added);
        agent.stop();
        agent.take_down();
        assert_eq!(reserved(host), after);
        agent.take_down();
        assert_eq!(reserved(host), after, "and again");
    }
}

#[test]
fn another_range_of_ports_takes_the_place_of_the_first_and_one_that_others_removed_comes_back() {
    let world = World::new();
    let host = &world.host;
    host.sysctl("net/ipv4/ip_local_reserved_ports", "80");
    let mut first = world.agent("");
    first.stop();
    let mut second = Agent::prepare(host, Some(UPLINK), "[nat]\nports = \"10000-10999\"\n");
    second.share_state(&first);
    second.share_pins(&first);
    second.run();
    assert_eq!(reserved(host), "80,10000-10999");
    host.sysctl("net/ipv4/ip_local_reserved_ports", "81");
    // Any change of the host is a reason to look.
    host.ip("route add 192.0.2.0/24 via 198.51.100.1");
    wait_until("the ports are reserved again", A_ROUND, || {
        reserved(host) == "81,10000-10999"
    });
    second.stop();
    second.take_down();
    assert_eq!(reserved(host), "81");
}

#[test]
fn an_agent_killed_at_any_step_of_its_start_leaves_ports_that_go_with_it() {
    let before = "80,20000-30010";
    // Before the ports are reserved, after, and behind the datapath.
    for boundary in 1..=4 {
        let world = World::new();
        world
            .host
            .sysctl("net/ipv4/ip_local_reserved_ports", before);
        let mut agent = Agent::prepare(&world.host, Some(UPLINK), "");
        agent.kill_at(Some(boundary));
        agent.spawn();
        let status = agent.serves_or_ended(Duration::from_secs(30));
        assert!(status.is_some(), "boundary {boundary}: it is killed");
        agent.kill_at(None);
        agent.take_down();
        assert_eq!(reserved(&world.host), before, "boundary {boundary}");

        agent.kill_at(Some(boundary));
        agent.spawn();
        assert!(agent.serves_or_ended(Duration::from_secs(30)).is_some());
        agent.kill_at(None);
        agent.run();
        let during = "80,16384-30010";
        assert_eq!(reserved(&world.host), during, "boundary {boundary}");
        agent.stop();
        agent.take_down();
        assert_eq!(reserved(&world.host), before, "boundary {boundary}");
    }
}
