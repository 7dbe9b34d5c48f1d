//! The life of an uplink under a guest's streams: address, link, hardware addresses, neighbours, routes (N-2). What
//! can live lives, and the rest ends at once.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{Deadline, SOON, wait_until};
use netagent_tests::guest::Guest;
use netagent_tests::netns::NetNs;
use netagent_tests::server::Server;
use netagent_tests::stack::{INSIDE, Stack};
use netagent_tests::talk::Talk;
use netagent_tests::tap::Header;
use netagent_tests::world::{
    FAR_END, HOST_V4, HOST_V6, ROUTER_V4, ROUTER_V6, UPLINK, World, server_v4, server_v6,
};

/// How long the link is away.
const AWAY: Duration = Duration::from_secs(3);

/// A world with echo servers, an agent and a guest.
struct Scene {
    world: World,
    agent: Agent,
    stack: Stack,
    servers: [(IpAddr, Server); 2],
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let agent = world.agent("");
        let mut guest = Guest::create(&agent, &world.host, "stack", Header::Vnet);
        let stack = Stack::boot(guest.nics.remove(0), 1_500);
        let servers = [server_v4(0).into(), server_v6(0).into()];
        let servers = servers.map(|address| (address, Server::tcp(&world.outside, address)));
        Self {
            world,
            agent,
            stack,
            servers,
        }
    }

    /// A stream in each family.
    fn talks(&self) -> Vec<Talk> {
        let servers = self.servers.iter();
        servers
            .map(|(address, _)| Talk::open(&self.stack.netns, *address))
            .collect()
    }

    /// Takes away the neighbours that the fixture made permanent, so that they are found as on any network.
    fn forget_neighbours(&self) {
        let World { host, outside } = &self.world;
        for (netns, name) in [(host, UPLINK), (outside, FAR_END)] {
            netns.ip(&format!("neighbour flush dev {name} nud permanent"));
        }
    }

    /// So many packets had no way out.
    fn no_route(&self) -> u64 {
        let drops = self.agent.drops("stack");
        drops.get("no_route").copied().unwrap_or(0)
    }

    /// Opens streams until they come from this address.
    fn wait_for_source(&self, index: usize, expected: IpAddr) {
        let (address, server) = &self.servers[index];
        wait_until("new flows leave from the new address", SOON, || {
            Talk::open(&self.stack.netns, *address).exchange();
            server.peers().last().map(|peer| peer.ip()) == Some(expected)
        });
    }

    /// Nobody opened a stream but those that were there: none was put together anew.
    fn check_connections(&self, expected: usize) {
        for (address, server) in &self.servers {
            assert_eq!(server.peers().len(), expected, "{address}");
        }
    }
}

#[test]
fn a_stream_lives_as_long_as_its_address_is_the_uplinks_and_then_it_is_reset() {
    let scene = Scene::new();
    let host = &scene.world.host;
    let changes: [(IpAddr, &str, IpAddr); 2] = [
        (HOST_V4.into(), "198.51.100.3/32", ROUTER_V4.into()),
        (HOST_V6.into(), "2001:db8:100::3/128", ROUTER_V6.into()),
    ];
    let mut talks = scene.talks();
    for (index, (before, network, router)) in changes.into_iter().enumerate() {
        let talk = &mut talks[index];
        let after: IpAddr = network.split('/').next().unwrap().parse().unwrap();
        host.ip(&format!("address add {network} dev {UPLINK} nodad"));
        talk.exchange();
        let route = format!("route replace default via {router} dev {UPLINK} src {after}");
        host.ip(&route);
        scene.wait_for_source(index, after);
        talk.exchange();
        let length = if before.is_ipv4() { 24 } else { 64 };
        host.ip(&format!("address delete {before}/{length} dev {UPLINK}"));
        // The network of the router went with the address.
        host.ip(&format!("route replace {router} dev {UPLINK} src {after}"));
        host.ip(&route);
        wait_until("the stream is reset", SOON, || match talk.try_exchange() {
            Ok(()) => false,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                true
            }
        });
        scene.wait_for_source(index, after);
    }
}

/// The streams say something again and again while nobody hears them; `is_seen` is asked meanwhile.
fn talk_into_the_void(talks: &mut [Talk], is_seen: impl Fn() -> bool) {
    let back = Deadline::after(AWAY);
    let mut seen = false;
    wait_until("the link was away for so long", SOON, || {
        talks.iter_mut().for_each(Talk::say);
        seen = seen || is_seen();
        back.remaining().is_none()
    });
    assert!(seen, "the link was away and nobody noticed");
}

fn all_live(talks: &mut [Talk]) {
    talks.iter_mut().for_each(Talk::exchange);
}

#[test]
fn streams_live_through_three_seconds_without_a_carrier() {
    let scene = Scene::new();
    let World { host, outside } = &scene.world;
    let mut talks = scene.talks();
    outside.ip(&format!("link set {FAR_END} down"));
    let link = || host.shell(&format!("ip link show dev {UPLINK}"));
    talk_into_the_void(&mut talks, || link().contains("NO-CARRIER"));
    outside.ip(&format!("link set {FAR_END} up"));
    // The far end lost its IPv6 address with the link.
    outside.ip(&format!("address add {ROUTER_V6}/64 dev {FAR_END} nodad"));
    all_live(&mut talks);
    scene.check_connections(1);
}

#[test]
fn streams_live_through_three_seconds_without_the_link_and_its_routes() {
    let scene = Scene::new();
    let host = &scene.world.host;
    let mut talks = scene.talks();
    let before = scene.no_route();
    host.ip(&format!("link set {UPLINK} down"));
    talk_into_the_void(&mut talks, || scene.no_route() > before);
    host.ip(&format!("link set {UPLINK} up"));
    host.ip(&format!("address add {HOST_V6}/64 dev {UPLINK} nodad"));
    for router in [IpAddr::from(ROUTER_V4), ROUTER_V6.into()] {
        host.ip(&format!("route replace default via {router} dev {UPLINK}"));
    }
    all_live(&mut talks);
    scene.check_connections(1);
}

#[test]
fn streams_live_while_the_default_route_goes_and_comes_back_by_another_gateway() {
    let scene = Scene::new();
    let World { host, outside } = &scene.world;
    let mut talks = scene.talks();
    for (talk, router) in talks.iter_mut().zip(["198.51.100.9", "2001:db8:100::9"]) {
        let is_v4 = router.contains('.');
        let (family, length) = if is_v4 { ("-4", 24) } else { ("-6", 64) };
        let before = scene.no_route();
        host.ip(&format!("{family} route delete default"));
        wait_until("the way is closed", SOON, || {
            talk.say();
            scene.no_route() > before
        });
        // To the host this is another router.
        outside.ip(&format!(
            "address add {router}/{length} dev {FAR_END} nodad"
        ));
        host.ip(&format!("route add default via {router} dev {UPLINK}"));
        talk.exchange();
    }
    scene.check_connections(1);
}

#[test]
fn streams_live_when_the_uplink_or_the_gateway_gets_another_hardware_address() {
    let scene = Scene::new();
    scene.forget_neighbours();
    let World { host, outside } = &scene.world;
    let mut talks = scene.talks();
    for (netns, name, mac) in [
        (outside, FAR_END, "02:00:00:00:07:01"),
        (host, UPLINK, "02:00:00:00:07:02"),
    ] {
        // Linux then says on the network that it has another one.
        netns.sysctl(&format!("net/ipv4/conf/{name}/arp_notify"), "1");
        netns.sysctl(&format!("net/ipv6/conf/{name}/ndisc_notify"), "1");
        netns.ip(&format!("link set {name} address {mac}"));
        all_live(&mut talks);
    }
    scene.check_connections(1);
}

/// Lets a host doubt its neighbours after a second, and ask once whether they are still there.
fn doubt_neighbours(host: &NetNs) {
    for family in ["ipv4", "ipv6"] {
        for (setting, value) in [
            ("base_reachable_time_ms", "1000"),
            ("delay_first_probe_time", "1"),
            ("retrans_time_ms", "200"),
            ("ucast_solicit", "1"),
        ] {
            host.sysctl(&format!("net/{family}/neigh/{UPLINK}/{setting}"), value);
        }
    }
}

#[test]
fn a_gateway_that_changes_its_hardware_address_in_silence_is_found_again() {
    let scene = Scene::new();
    scene.forget_neighbours();
    doubt_neighbours(&scene.world.host);
    let mut talks = scene.talks();
    let gateway = || {
        let line = format!("ip -json neighbour show {ROUTER_V4} dev {UPLINK}");
        let found = scene.world.host.json(&line);
        found[0]["lladdr"].as_str().map(str::to_owned)
    };
    let before = gateway().expect("it was asked for");
    let outside = &scene.world.outside;
    outside.ip(&format!("link set {FAR_END} address 02:00:00:00:07:03"));
    assert_eq!(gateway(), Some(before), "nobody told it");
    // What the guest sends is all that makes the host ask.
    all_live(&mut talks);
    assert_eq!(gateway().as_deref(), Some("02:00:00:00:07:03"));
    scene.check_connections(1);
}

#[test]
fn streams_live_while_the_uplinks_mtu_goes_down_and_up() {
    let scene = Scene::new();
    let World { host, outside } = &scene.world;
    let mut talks = scene.talks();
    for mtu in [1_400, 9_000, 1_280, 1_500] {
        outside.ip(&format!("link set {FAR_END} mtu {mtu}"));
        host.ip(&format!("link set {UPLINK} mtu {mtu}"));
        scene
            .stack
            .netns
            .ip(&format!("link set {INSIDE} mtu {mtu}"));
        all_live(&mut talks);
    }
    scene.check_connections(1);
}
