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
    // Pinned maps and programs are no links.
    let links = agent.pins().pins().iter().filter(|pin| detach(pin)).count();
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
