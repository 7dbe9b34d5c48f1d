//! Several uplinks: each with its own routes and its own address, and each may go and come (N-2).

use std::io::ErrorKind;
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_for, wait_until};
use netagent_tests::guest::Guest;
use netagent_tests::http;
use netagent_tests::ping::ping;
use netagent_tests::second_uplink::{
    BEYOND, BEYOND_NETWORKS, BOTH, Beyond, SECOND, SECOND_ADDRESSES,
};
use netagent_tests::server::Server;
use netagent_tests::stack::Stack;
use netagent_tests::talk::Talk;
use netagent_tests::tap::Header;
use netagent_tests::world::{
    HOST_V4, HOST_V6, ROUTER_V4, ROUTER_V6, UPLINK, World, server_v4, server_v6,
};

use crate::settings::gathers_lists;

const FIRST_ADDRESSES: [IpAddr; 2] = [IpAddr::V4(HOST_V4), IpAddr::V6(HOST_V6)];
const FIRST_ROUTERS: [IpAddr; 2] = [IpAddr::V4(ROUTER_V4), IpAddr::V6(ROUTER_V6)];

fn start(world: &World, uplinks: Option<&str>, configuration: &str) -> Agent {
    let mut agent = Agent::prepare(&world.host, uplinks, configuration);
    agent.run();
    agent
}

fn boot(world: &World, agent: &Agent) -> Stack {
    let mut guest = Guest::create(agent, &world.host, "stack", Header::Vnet);
    Stack::boot(guest.nics.remove(0), 1_500)
}

fn first_servers() -> [IpAddr; 2] {
    [server_v4(0).into(), server_v6(0).into()]
}

/// Whether somebody at an address answers, if only that nobody listens there.
fn answers(stack: &Stack, remote: IpAddr) -> bool {
    const AT_ONCE: Duration = Duration::from_millis(500);
    let connect = || TcpStream::connect_timeout(&(remote, 9).into(), AT_ONCE);
    let refused = |error: std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
    stack.netns.run(connect).map_or_else(refused, |_| true)
}

/// Everything that is behind both uplinks is reached, each behind the uplink's own address.
fn check_both(world: &World, beyond: &Beyond, stack: &Stack) {
    let ways = [
        (&world.outside, first_servers(), FIRST_ADDRESSES),
        (&beyond.netns, BEYOND, SECOND_ADDRESSES),
    ];
    for (netns, servers, addresses) in ways {
        for (server, address) in servers.into_iter().zip(addresses) {
            let echo = Server::tcp(netns, server);
            Talk::open(&stack.netns, server).exchange();
            ping(&stack.netns, server, (3, 1_400)).unwrap();
            let peers = echo.peers();
            assert!(peers.iter().all(|peer| peer.ip() == address), "{peers:?}");
            assert_eq!(peers.len(), 1);
        }
    }
}

#[test]
fn guests_leave_by_each_uplink_behind_its_own_address() {
    for (named, configuration) in [
        (Some(BOTH), ""),
        (Some(BOTH), "[datapath]\nattach = \"clsact\"\n"),
        (None, "uplink = [\"uplink1\", \"uplink0\"]\n"),
    ] {
        let world = World::new();
        let beyond = Beyond::new(&world);
        let mut agent = start(&world, named, configuration);
        let stack = boot(&world, &agent);
        check_both(&world, &beyond, &stack);
        agent.kill9();
        agent.run();
        check_both(&world, &beyond, &stack);
        assert_eq!(agent.cli("plan", &[]).trim(), "nothing to do");
    }
}

#[test]
fn an_interface_that_is_not_named_is_closed_to_guests() {
    let world = World::new();
    let beyond = Beyond::new(&world);
    let agent = start(&world, Some(UPLINK), "");
    let stack = boot(&world, &agent);
    let wire = beyond.wire();
    for server in BEYOND {
        assert!(!answers(&stack, server), "{server}");
    }
    let drops = agent.drops("stack");
    assert!(drops["not_uplink"] >= 2, "{drops:?}");
    let mut echoes = std::iter::from_fn(|| wire.receive_now());
    assert!(echoes.all(|received| {
        let packet = netagent_tests::packet::Packet::parse(&received.frame.bytes);
        packet.is_none_or(|packet| !BEYOND.contains(&packet.ends.dst))
    }));
}

#[test]
fn a_flow_whose_route_moves_to_another_uplink_ends_and_new_ones_take_that_way() {
    let world = World::new();
    let beyond = Beyond::new(&world);
    let agent = start(&world, Some(BOTH), "");
    let stack = boot(&world, &agent);
    let mut servers = Vec::new();
    for index in 0..2 {
        let (server, network) = (BEYOND[index], BEYOND_NETWORKS[index]);
        // The same address is behind the first uplink too.
        world.outside.ip(&format!("address add {server} dev lo"));
        let near = Server::tcp(&beyond.netns, server);
        let far = Server::tcp(&world.outside, server);
        let mut talk = Talk::open(&stack.netns, server);
        assert_eq!(near.peers()[0].ip(), SECOND_ADDRESSES[index]);
        let router = FIRST_ROUTERS[index];
        world.host.ip(&format!(
            "route replace {network} via {router} dev {UPLINK}"
        ));
        wait_until("the stream ends", SOON, || talk.try_exchange().is_err());
        Talk::open(&stack.netns, server).exchange();
        let peer = far.peers().pop().unwrap();
        assert_eq!(peer.ip(), FIRST_ADDRESSES[index]);
        // What waits for the stream that ended ends with its own patience: both at once, later.
        servers.push((near, far));
    }
}

fn host_problems(agent: &Agent) -> String {
    agent.cli("plan", &[])
}

#[test]
fn an_uplink_that_vanishes_is_named_and_used_again_when_it_is_back() {
    let world = World::new();
    let beyond = Beyond::new(&world);
    let agent = start(&world, Some(BOTH), "");
    let stack = boot(&world, &agent);
    check_both(&world, &beyond, &stack);
    let before = world.host.ifindex(SECOND);
    world.host.ip(&format!("link delete {SECOND}"));
    wait_until("the plan names it", SOON, || {
        host_problems(&agent).contains("uplink 'uplink1' is gone")
    });
    let first = Server::tcp(&world.outside, first_servers()[0]);
    Talk::open(&stack.netns, first_servers()[0]).exchange();
    assert_eq!(first.peers().len(), 1, "the other one works");
    drop(first);
    beyond.plug_in(&world);
    assert_ne!(world.host.ifindex(SECOND), before);
    wait_until("it is used again", SOON, || answers(&stack, BEYOND[1]));
    check_both(&world, &beyond, &stack);
    assert_eq!(host_problems(&agent).trim(), "nothing to do");
}

#[test]
fn of_several_uplinks_one_may_be_missing_at_the_start_and_of_one_none() {
    let world = World::new();
    let mut agent = Agent::prepare(&world.host, Some(BOTH), "");
    agent.spawn();
    let health = || http::request(&agent.socket(), "GET", "/healthz", "").ok();
    let answer = wait_for("it serves", SOON, health);
    assert_eq!(answer.status, 503);
    assert!(answer.message().contains("uplink 'uplink1' is gone"));
    let stack = boot(&world, &agent);
    let beyond = Beyond::new(&world);
    wait_until("it is used", SOON, || answers(&stack, BEYOND[1]));
    assert_eq!(health().map(|answer| answer.status), Some(200));
    check_both(&world, &beyond, &stack);
    let alone = World::new();
    let mut agent = Agent::prepare(&alone.host, Some("eth8,eth9"), "");
    let output = agent.run_to_end();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        complaint.contains("uplink 'eth8' does not exist"),
        "{complaint}"
    );
}

#[test]
fn without_a_name_the_uplink_is_the_default_routes_wherever_it_goes() {
    let world = World::new();
    let beyond = Beyond::new(&world);
    world
        .host
        .shell(&format!("ethtool --features {UPLINK} rx-gro-list on"));
    let agent = start(&world, None, "");
    let stack = boot(&world, &agent);
    assert!(!gathers_lists(&world.host, UPLINK));
    let servers = BEYOND.map(|server| Server::tcp(&beyond.netns, server));
    for (family, router) in [("-4", "192.0.2.1"), ("-6", "2001:db8:110::1")] {
        world.host.ip(&format!("{family} route delete default"));
        world
            .host
            .ip(&format!("route add default via {router} dev {SECOND}"));
    }
    wait_until("the new one is used", SOON, || {
        BEYOND.iter().all(|server| answers(&stack, *server))
    });
    for (server, address) in BEYOND.into_iter().zip(SECOND_ADDRESSES) {
        Talk::open(&stack.netns, server).exchange();
        let peers: Vec<IpAddr> = servers
            .iter()
            .flat_map(Server::peers)
            .map(|peer| peer.ip())
            .collect();
        assert!(peers.contains(&address), "{peers:?}");
    }
    assert!(
        gathers_lists(&world.host, UPLINK),
        "the old one is as it was"
    );
    assert!(!answers(&stack, FIRST_ROUTERS[0]));
}

#[test]
fn features_of_every_uplink_come_back_and_of_one_that_vanished_nothing_is_left() {
    let world = World::new();
    let beyond = Beyond::new(&world);
    let switch_on = |name: &str| {
        let line = format!("ethtool --features {name} rx-gro-list on");
        world.host.shell(&line);
    };
    [UPLINK, SECOND].into_iter().for_each(switch_on);
    let mut agent = start(&world, Some(BOTH), "");
    let list = agent.state_dir().join("uplink-features");
    let listed = || std::fs::read_to_string(&list).unwrap_or_default();
    for name in [UPLINK, SECOND] {
        assert!(!gathers_lists(&world.host, name), "{name}");
        assert!(listed().contains(name));
    }
    agent.kill9();
    world.host.ip(&format!("link delete {SECOND}"));
    beyond.plug_in(&world);
    // The new device has the name of the old one, and nothing of it was switched off.
    assert!(!gathers_lists(&world.host, SECOND));
    agent.run();
    agent.kill9();
    agent.run();
    agent.stop();
    agent.cli("down", &[]);
    assert!(gathers_lists(&world.host, UPLINK));
    assert!(!gathers_lists(&world.host, SECOND), "it never gathered");
    assert_eq!(listed(), "");
}
