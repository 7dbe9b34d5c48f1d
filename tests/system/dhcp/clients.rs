//! The clients of real images: guests that come up by DHCP and router advertisements alone (I-15 to I-17, G-1, M-8).

use std::net::{IpAddr, Ipv6Addr, TcpStream};
use std::time::Duration;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, now, wait_for, wait_until};
use netagent_tests::dhcp_client::{DhcpClient, Program};
use netagent_tests::guest::Guest;
use netagent_tests::name_server::{self, NameServer};
use netagent_tests::netns::NetNs;
use netagent_tests::ping::ping;
use netagent_tests::router::link_local;
use netagent_tests::server::{PORT, Server};
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{UPLINK, World, server_v4, server_v6};
use serde_json::{Value, json};

/// A guest that knows nothing, on the TAPs of an instance.
fn boot(world: &World, agent: &Agent, spec: &Value) -> (Stack, Value) {
    let guest = Guest::create_from(agent, &world.host, spec, Header::Vnet);
    let answer = guest.answer;
    (Stack::bare(guest.nics), answer)
}

/// Waits until duplicate address detection has let through the addresses of an interface, and returns those that
/// the whole world may know.
fn addresses_v6(netns: &NetNs, interface: &str, count: usize) -> Vec<Ipv6Addr> {
    wait_for("addresses by advertisement", 2 * SOON, || {
        let line = format!("ip -json -6 address show dev {interface}");
        let shown = netns.json(&line);
        let all = shown[0]["addr_info"].as_array()?.clone();
        let is_settled = |one: &Value| one["tentative"] != true && one["dadfailed"] != true;
        if !all.iter().all(is_settled) {
            return None;
        }
        let global = all.iter().filter(|one| one["scope"] != "link");
        let addresses: Vec<Ipv6Addr> = global
            .map(|one| one["local"].as_str().unwrap().parse().unwrap())
            .collect();
        (addresses.len() == count).then_some(addresses)
    })
}

/// Checks that nothing was dropped but questions whether an address is already in use: nobody answers those.
fn check_drops(agent: &Agent, name: &str) {
    let mut drops = agent.guest_drops(name);
    drops.remove("neighbour_unanswered");
    assert_eq!(drops, [].into());
}

/// Whether a TCP connection to the world works, and how long it took to know.
fn connects(netns: &NetNs, remote: IpAddr, limit: Duration) -> (bool, Duration) {
    let began = now();
    let stream = netns.run(|| TcpStream::connect_timeout(&(remote, PORT).into(), limit));
    (stream.is_ok(), began.elapsed())
}

#[test]
fn a_guest_comes_up_by_dhcp_and_advertisements_alone_and_reaches_the_world() {
    for program in [Program::Udhcpc, Program::Dhclient] {
        let world = World::new();
        let upstream = NameServer::start(&world.outside, (server_v4(9), 53), server_v4(0));
        let agent = world.agent(&format!("[dns]\nupstream = [\"{}\"]\n", server_v4(9)));
        let (stack, answer) = boot(&world, &agent, &json!({ "name": "alone" }));
        let client = DhcpClient::start(&stack.netns, "eth0", program);
        let lease = client.lease();
        assert_eq!(lease["ip"], answer["private_ip"].as_str().unwrap());
        assert_eq!(lease["router"], "172.16.0.1");
        assert_eq!(lease["dns"], "172.16.0.1");
        assert_eq!(lease["hostname"], "alone");
        assert_eq!(lease["mtu"], "1500");
        assert_eq!(lease["serverid"], "172.16.0.1");
        let own = addresses_v6(&stack.netns, "eth0", 1)[0];
        let pool: Ipv6Addr = address_of(&answer, "ip6").parse().unwrap();
        assert_eq!(own.segments()[..4], pool.segments()[..4], "its own /64");
        for remote in [IpAddr::V4(server_v4(0)), server_v6(0).into()] {
            let _server = Server::tcp(&world.outside, remote);
            assert!(connects(&stack.netns, remote, SOON).0, "{remote}");
            ping(&stack.netns, remote, (2, 1_000)).unwrap();
        }
        let asked = name_server::ask_udp(&stack.netns, ([172, 16, 0, 1], 53), "example.net");
        assert_eq!(asked.unwrap().last, server_v4(0).octets());
        assert_eq!(upstream.queries().len(), 1);
        check_drops(&agent, "alone");
    }
}

/// A member of the first interface, without its prefix length.
fn address_of<'a>(answer: &'a Value, member: &str) -> &'a str {
    let text = answer["network_interfaces"][0][member].as_str();
    text.unwrap().split('/').next().unwrap()
}

#[test]
fn the_gateway_outside_of_the_network_is_reached_by_every_client() {
    for program in [Program::Udhcpc, Program::Dhclient] {
        for (interfaces, gateway) in [
            (json!([{}]), "192.168.7.9"),
            (
                json!([{ "ip": "10.9.0.5/32", "tap_name": "alone0" }]),
                "169.254.1.1",
            ),
        ] {
            let world = World::new();
            let agent = world.agent("");
            let mut spec = json!({ "name": "offlink", "network_interfaces": interfaces });
            if gateway.starts_with("192") {
                spec["gateway"] = gateway.into();
            }
            let (stack, _) = boot(&world, &agent, &spec);
            let client = DhcpClient::start(&stack.netns, "eth0", program);
            let lease = client.lease();
            assert_ne!(lease["staticroutes"], "", "{lease:?}");
            let routes = stack.netns.shell("ip -4 route show default");
            assert!(routes.contains(&format!("via {gateway}")), "{routes}");
            ping(&stack.netns, server_v4(0), (2, 56)).unwrap();
        }
    }
}

#[test]
fn a_lease_is_renewed_and_given_back_by_a_real_client() {
    let world = World::new();
    let mut agent = world.agent("");
    let (stack, _) = boot(&world, &agent, &json!({ "name": "renews" }));
    let client = DhcpClient::start(&stack.netns, "eth0", Program::Udhcpc);
    let lease = client.lease();
    assert_eq!(client.renew(), lease);
    agent.kill9();
    agent.run();
    assert_eq!(client.renew(), lease, "by an agent that started again");
    world.host.ip(&format!("link set {UPLINK} mtu 1400"));
    wait_until("the agent follows", SOON, || {
        agent.inspect("renews")["network_interfaces"][0]["mtu"] == 1_400
    });
    assert_eq!(client.renew()["mtu"], "1400");
    client.release();
    drop(client);
    let again = DhcpClient::start(&stack.netns, "eth0", Program::Dhclient);
    assert_eq!(again.lease()["ip"], lease["ip"]);
}

#[test]
fn several_interfaces_come_up_and_the_default_route_is_one() {
    let world = World::new();
    let agent = world.agent("");
    let spec = json!({
        "name": "several",
        "network_interfaces": [{ "ip": "192.168.0.1/30", "tap_name": "vpc0" }, {}],
    });
    let (stack, _) = boot(&world, &agent, &spec);
    let clients = ["eth0", "eth1"].map(|interface| {
        let client = DhcpClient::start(&stack.netns, interface, Program::Udhcpc);
        (client.lease(), client)
    });
    assert_eq!(clients[0].0["ip"], "192.168.0.1");
    assert_eq!(clients[0].0["router"], "");
    assert_eq!(clients[1].0["router"], clients[1].0["serverid"]);
    let routes = stack.netns.json("ip -json -4 route show default");
    assert_eq!(routes.as_array().unwrap().len(), 1, "{routes}");
    assert_eq!(routes[0]["dev"], "eth1");
    addresses_v6(&stack.netns, "eth1", 1);
    for remote in [IpAddr::V4(server_v4(0)), server_v6(0).into()] {
        ping(&stack.netns, remote, (1, 56)).unwrap();
    }
}

#[test]
fn on_a_host_without_a_way_out_by_ipv6_a_guest_knows_at_once_and_ipv4_works() {
    let world = World::new();
    world.host.ip("-6 route delete default");
    let agent = world.agent("");
    let (stack, _) = boot(&world, &agent, &json!({ "name": "four" }));
    let client = DhcpClient::start(&stack.netns, "eth0", Program::Udhcpc);
    client.lease();
    addresses_v6(&stack.netns, "eth0", 1);
    assert_eq!(stack.netns.shell("ip -6 route show default"), "");
    let (connected, took) = connects(&stack.netns, server_v6(0).into(), SOON);
    assert!(!connected && took < Duration::from_millis(200), "{took:?}");
    let _server = Server::tcp(&world.outside, server_v4(0));
    assert!(connects(&stack.netns, server_v4(0).into(), SOON).0);

    // The uplink gains a way out, and the guest hears of it unasked; then it loses it again.
    let router = netagent_tests::world::ROUTER_V6;
    world.host.ip(&format!("-6 route add default via {router}"));
    let has_route = || !stack.netns.shell("ip -6 route show default").is_empty();
    wait_until("a default route", 2 * SOON, has_route);
    ping(&stack.netns, server_v6(0), (1, 56)).unwrap();
    world.host.ip("-6 route delete default");
    wait_until("no default route", 2 * SOON, || !has_route());
}

#[test]
fn duplicate_address_detection_completes_for_addresses_of_the_guests_own_and_typed_ones() {
    let world = World::new();
    let agent = world.agent("");
    let (stack, answer) = boot(&world, &agent, &json!({ "name": "dad" }));
    stack.netns.ip("link set eth0 up");
    let typed: Ipv6Addr = address_of(&answer, "ip6").parse().unwrap();
    stack.netns.ip(&format!("address add {typed}/64 dev eth0"));
    let own = addresses_v6(&stack.netns, "eth0", 2);
    assert!(own.contains(&typed), "{own:?}");
    let mac = stack.netns.mac("eth0");
    let shown = stack.netns.shell("ip -6 address show dev eth0 scope link");
    assert!(shown.contains(&link_local(mac).to_string()), "{shown}");
    check_drops(&agent, "dad");
}

#[test]
fn custom_and_site_local_addresses_reach_the_world_by_the_advertised_route() {
    for ip6 in ["fec0::2/64", "fd12:3456:789a:1::5/64"] {
        let world = World::new();
        let agent = world.agent("");
        let interface = json!({ "ip": "192.168.0.1/30", "ip6": ip6, "tap_name": "vpc0" });
        let spec = json!({ "name": "typed", "network_interfaces": [interface] });
        let (stack, _) = boot(&world, &agent, &spec);
        stack.netns.ip("link set eth0 up");
        stack.netns.ip(&format!("address add {ip6} dev eth0"));
        wait_until("a default route by advertisement", 2 * SOON, || {
            !stack.netns.shell("ip -6 route show default").is_empty()
        });
        // The network is the user's, so the guest makes no address of its own in it.
        assert_eq!(addresses_v6(&stack.netns, "eth0", 1).len(), 1);
        ping(&stack.netns, server_v6(0), (2, 56)).unwrap();
        let _server = Server::tcp(&world.outside, server_v6(0));
        assert!(connects(&stack.netns, server_v6(0).into(), SOON).0);
    }
}

#[test]
fn a_changed_mtu_of_the_uplink_reaches_a_guest_that_believes_advertisements() {
    let world = World::new();
    let agent = world.agent("");
    let (stack, _) = boot(&world, &agent, &json!({ "name": "follows" }));
    stack.netns.ip("link set eth0 up");
    addresses_v6(&stack.netns, "eth0", 1);
    let mtu = || stack.netns.read_sysctl("net/ipv6/conf/eth0/mtu");
    for value in ["1400", "1500"] {
        world.host.ip(&format!("link set {UPLINK} mtu {value}"));
        wait_until("the guest hears of it unasked", 2 * SOON, || {
            mtu().as_deref() == Some(value)
        });
    }
    drop(agent);
}
