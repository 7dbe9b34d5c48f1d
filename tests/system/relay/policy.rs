//! Whose policy and limits hold for what (R-6, P-9, P-11): a client's at its own TAP, a relay's for its own traffic.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use netagent_common::net::{protocol, tcp_flag};
use netagent_tests::client::connect;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::demand::{Demand, Ends, arriving};
use netagent_tests::packet::Packet;
use netagent_tests::relay::{SHIELD, SHIELD_INTERFACE, Scene, client, packets_of, relayed};
use netagent_tests::server::PORT;
use netagent_tests::talk::Talk;
use serde_json::json;

use crate::policy::site::{ALLOW_ALL, DENY_ALL, Fate, check_fate, put, serve};
use crate::relay::{FAMILIES, exchange, pings, saw, server};
use crate::{exchange::Protocol, stacks::echo_tcp};

const TIME: Duration = Duration::from_secs(3);
/// How often too little may arrive.
const ATTEMPTS: usize = 5;
const MEGABIT: u64 = 1_000_000;

#[test]
fn r6_a_clients_policy_holds_before_the_relay_sees_anything() {
    let spec = json!({
        "name": "listed",
        "network_interfaces": [relayed(None)],
        "denied_cidrs": ["203.0.113.4/32", "2001:db8:200::4/128"],
    });
    let scene = Scene::new("", &[spec, client("closed")]);
    let all: Vec<_> = FAMILIES
        .into_iter()
        .flat_map(|is_v4| [server(is_v4, 0), server(is_v4, 3)])
        .collect();
    let _servers = serve(&scene.world.outside, &all);
    let denied = |packet: &Packet| FAMILIES.iter().any(|v4| packet.ends.dst == server(*v4, 3));
    for is_v4 in FAMILIES {
        let netns = scene.clients[0].netns();
        check_fate(netns, server(is_v4, 0), Fate::Answered);
        check_fate(netns, server(is_v4, 3), Fate::Refused);
    }
    assert_eq!(scene.relay().packets(false, denied), []);

    put(&scene.agent, "closed", DENY_ALL);
    scene.forget();
    let netns = scene.clients[1].netns();
    for remote in &all {
        assert!(!pings(netns, *remote));
    }
    let own = FAMILIES.map(|is_v4| scene.clients[1].address(is_v4));
    let seen = scene
        .relay()
        .packets(false, |packet| own.contains(&packet.ends.src));
    assert_eq!(seen, []);
    put(&scene.agent, "closed", ALLOW_ALL);
    scene.wait_for_client(&scene.clients[1]);
}

fn is_echo(packet: &Packet) -> bool {
    matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6)
}

#[test]
fn r6_a_relay_that_may_do_nothing_itself_forwards_for_its_clients() {
    let relay = json!({
        "name": SHIELD,
        "network_interfaces": [{ "name": SHIELD_INTERFACE }],
        "network_policy": "deny-all",
    });
    let scene = Scene::with_relay("", &relay, &[client("sandbox")]);
    let _servers = serve(
        &scene.world.outside,
        &FAMILIES.map(|is_v4| server(is_v4, 0)),
    );
    for is_v4 in FAMILIES {
        let remote = server(is_v4, 0);
        check_fate(scene.client().netns(), remote, Fate::Answered);
        echo_tcp(scene.client().netns(), remote, 100_000);
        scene.forget();
        let pinged = pings(scene.relay().netns(), remote);
        assert!(!pinged, "its own traffic is denied");
        let echoes = packets_of(&scene.uplink.left()).into_iter();
        let echoes: Vec<Packet> = echoes.filter(is_echo).collect();
        assert_eq!(echoes, [], "{remote}");
    }
}

/// The stream has ended with a reset.
fn is_reset(stream: &mut TcpStream) -> bool {
    let ended = stream
        .write_all(b"x")
        .and_then(|()| stream.read_exact(&mut [0]));
    ended.is_err_and(|error| {
        matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        )
    })
}

fn check_resets(scene: &Scene, policy: &str) {
    let remotes = FAMILIES.map(|is_v4| server(is_v4, 0));
    let _servers = serve(&scene.world.outside, &remotes);
    let mut kept = remotes.map(|remote| Talk::open(scene.clients[1].netns(), remote));
    let mut streams = remotes.map(|remote| {
        let mut stream = connect(scene.client().netns(), (remote, PORT).into()).unwrap();
        stream.write_all(b"before").unwrap();
        stream.read_exact(&mut [0; 6]).unwrap();
        stream
    });
    scene.forget();
    put(&scene.agent, "one", policy);
    for (stream, remote) in streams.iter_mut().zip(remotes) {
        assert!(is_reset(stream), "{remote}");
    }
    let mut told = Vec::new();
    wait_until("the world is told too", SOON, || {
        let left = packets_of(&scene.uplink.left());
        told.extend(left.into_iter().filter(|p| p.kind & tcp_flag::RST != 0));
        remotes
            .iter()
            .all(|remote| told.iter().any(|packet| packet.ends.dst == *remote))
    });
    kept.iter_mut().for_each(Talk::exchange);
}

#[test]
fn p9_a_policy_that_forbids_a_live_connection_resets_both_ends_through_the_relay() {
    let scene = Scene::new("", &[client("one"), client("two")]);
    for policy in [
        r#"{"denied_cidrs": ["203.0.113.0/24", "2001:db8:200::/64"]}"#,
        DENY_ALL,
    ] {
        check_resets(&scene, policy);
        put(&scene.agent, "one", ALLOW_ALL);
        scene.wait_for_client(scene.client());
    }
}

#[test]
fn p14_audit_of_a_client_counts_what_its_policy_would_drop_and_lets_it_pass_the_relay() {
    let spec = json!({
        "name": "audited",
        "network_interfaces": [relayed(None)],
        "network_policy": "deny-all",
        "audit": true,
    });
    let scene = Scene::new("", &[spec]);
    let _servers = serve(
        &scene.world.outside,
        &FAMILIES.map(|is_v4| server(is_v4, 0)),
    );
    for is_v4 in FAMILIES {
        check_fate(scene.client().netns(), server(is_v4, 0), Fate::Answered);
    }
    assert_eq!(scene.agent.guest_drops("audited"), Default::default());
}

#[test]
fn r6_what_a_relay_hides_behind_its_own_address_is_its_own_traffic() {
    let relay = json!({
        "name": SHIELD,
        "network_interfaces": [{ "name": SHIELD_INTERFACE }],
        "denied_cidrs": ["203.0.113.4/32", "2001:db8:200::4/128"],
    });
    let scene = Scene::with_relay("", &relay, &[client("sandbox")]);
    let all: Vec<_> = FAMILIES
        .into_iter()
        .flat_map(|is_v4| [server(is_v4, 0), server(is_v4, 3)])
        .collect();
    let _servers = serve(&scene.world.outside, &all);
    let netns = scene.client().netns();
    for remote in &all {
        // As a client's own traffic the relay's policy does not touch it.
        check_fate(netns, *remote, Fate::Answered);
    }
    for words in [
        "add table inet hide",
        "add chain inet hide post { type nat hook postrouting priority 100 ; }",
        "add rule inet hide post masquerade",
    ] {
        scene.relay().netns().shell(&format!("nft {words}"));
    }
    for is_v4 in FAMILIES {
        scene.forget();
        exchange(netns, Protocol::Udp, server(is_v4, 0), b"hidden");
        let own = scene.relay().address(is_v4);
        let is_hidden = |packet: &Packet| packet.ends.src == own && packet.payload == b"hidden";
        assert_eq!(scene.relay().packets(true, is_hidden).len(), 1);
        check_fate(netns, server(is_v4, 3), Fate::Refused);
    }
}

#[test]
fn p11_relayed_traffic_counts_once() {
    let scene = Scene::new("", &[client("sandbox")]);
    let remote = server(true, 0);
    let _servers = serve(&scene.world.outside, &[remote]);
    let before = [SHIELD, "sandbox"].map(|name| scene.agent.traffic(name));
    const LENGTH: u64 = 2 << 20;
    echo_tcp(scene.client().netns(), remote, LENGTH as usize);
    let after = [SHIELD, "sandbox"].map(|name| scene.agent.traffic(name));
    let [relay, client] = [0, 1].map(|index| {
        let (before, after) = (before[index], after[index]);
        (
            after.from_vm_bytes - before.from_vm_bytes,
            after.to_vm_bytes - before.to_vm_bytes,
        )
    });
    let is_once = |bytes: u64| (LENGTH..LENGTH + LENGTH / 4).contains(&bytes);
    assert!(is_once(client.0) && is_once(client.1), "{client:?}");
    assert!(relay.0 < LENGTH / 4 && relay.1 < LENGTH / 4, "{relay:?}");

    // A rate of the client holds once, and one of the relay not at all.
    scene
        .agent
        .limit("sandbox", &json!({ "bandwidth": "40mbit" }));
    scene.agent.limit(
        SHIELD,
        &json!({ "bandwidth": "1mbit", "bandwidth_in": "1mbit" }),
    );
    let ends = Ends {
        guest: scene.client().netns(),
        world: &scene.world.outside,
        server: server(true, 1),
        is_upload: true,
    };
    // What a busy machine does not send, no limit makes up for; counted twice, it would never be that much.
    let mut seen = Vec::new();
    while seen.iter().all(|megabits| *megabits < 28.0) {
        assert!(seen.len() < ATTEMPTS, "{seen:?} Mbit/s");
        let rate = arriving(ends, Demand::Udp(80 * MEGABIT), TIME);
        seen.push(rate / MEGABIT as f64);
        assert!(seen.iter().all(|megabits| *megabits < 48.0), "{seen:?}");
    }
}

#[test]
fn r1_what_a_client_says_to_its_own_gateway_stays_local() {
    let scene = Scene::new("", &[client("sandbox")]);
    let sandbox = scene.client();
    scene.forget();
    let gateways = [sandbox.gateway_v4.to_string(), "fe80::1%eth0".to_owned()];
    for gateway in gateways {
        sandbox
            .netns()
            .shell(&format!("busybox ping -c 2 -W 5 {gateway}"));
    }
    sandbox.netns().ip("neighbour flush all");
    exchange_with_world(&scene);
    let text = format!("{:?}", sandbox.address(true));
    let echo_of_gateway = scene.relay().packets(false, |packet| {
        packet.ends.dst == std::net::IpAddr::V4(sandbox.gateway_v4)
    });
    assert_eq!(echo_of_gateway, [], "{text}");
    assert!(!saw(scene.relay(), &sandbox.mac), "no ARP and no ND of it");
}

fn exchange_with_world(scene: &Scene) {
    let remotes = FAMILIES.map(|is_v4| server(is_v4, 0));
    let _servers = serve(&scene.world.outside, &remotes);
    for remote in remotes {
        exchange(scene.client().netns(), Protocol::Udp, remote, b"local");
    }
}
