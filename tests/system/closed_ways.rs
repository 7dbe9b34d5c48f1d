//! Nothing that a guest sends leaves by an interface that is no uplink, whatever the host's routes do; and what
//! leaves by an uplink goes to the neighbour that the main table names.

use std::net::IpAddr;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::netns::{NetNs, join_by_veth};
use netagent_tests::packet::{self, Packet};
use netagent_tests::raw::Raw;
use netagent_tests::tap::Header;
use netagent_tests::world::{ROUTER_V4, SILENT, UPLINK, World, link_layer};

use crate::changes::leaves;

const THIRD: &str = "third0";
const THIRD_FAR_END: &str = "third1";

/// A host with a third interface, which leads to a router as well.
struct Scene {
    world: World,
    agent: Agent,
    guest: Guest,
    wire: Raw,
    third: Raw,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let (host, elsewhere) = (&world.host, NetNs::new());
        join_by_veth((host, THIRD), (&elsewhere, THIRD_FAR_END));
        host.ip(&format!("address add 192.0.2.2/24 dev {THIRD}"));
        host.ip(&format!("address add 2001:db8:110::2/64 dev {THIRD} nodad"));
        let mac = link_layer(elsewhere.mac(THIRD_FAR_END));
        for router in ["192.0.2.1", "2001:db8:110::1"] {
            host.ip(&format!(
                "neighbour replace {router} lladdr {mac} dev {THIRD} nud permanent"
            ));
        }
        let third = Raw::open(&elsewhere, THIRD_FAR_END);
        let agent = world.agent("");
        let guest = Guest::create(&agent, host, "moving", Header::Vnet);
        let wire = world.wire();
        Self {
            world,
            agent,
            guest,
            wire,
            third,
        }
    }

    fn nic(&self) -> &Nic {
        &self.guest.nics[0]
    }

    fn leaves(&self, remote: IpAddr) -> Option<(IpAddr, [u8; 6])> {
        leaves(self.nic(), &self.wire, remote, 9_000)
    }

    fn drops(&self, reason: &str) -> u64 {
        let drops = self.agent.drops("moving");
        drops.get(reason).copied().unwrap_or(0)
    }

    /// Nothing of any guest crossed the third interface: only what the host itself says there.
    fn check_third(&self) {
        let frames = std::iter::from_fn(|| self.third.receive_now());
        for received in frames {
            let packet = Packet::parse(&received.frame.completed());
            let is_guests = packet.is_some_and(|packet| packet.protocol == 17);
            assert!(!is_guests, "{}", packet::hex(&received.frame.bytes));
        }
    }
}

#[test]
fn nothing_is_sent_through_another_interface_while_routes_flap() {
    let scene = Scene::new();
    let host = &scene.world.host;
    let flaps = [
        ("203.0.113.0/24", "192.0.2.1"),
        ("2001:db8:200::/64", "2001:db8:110::1"),
    ];
    for (remote, (network, router)) in SILENT.into_iter().zip(flaps) {
        let is_v4 = remote.is_ipv4();
        let family = if is_v4 { "-4" } else { "-6" };
        for _ in 0..4 {
            let before = scene.drops("not_uplink");
            host.ip(&format!("route add {network} via {router} dev {THIRD}"));
            wait_until("it is closed", SOON, || {
                scene.leaves(remote).is_none() && scene.drops("not_uplink") > before
            });
            host.ip(&format!("route delete {network} dev {THIRD}"));
            wait_until("it is open", SOON, || scene.leaves(remote).is_some());
            // A default route that the kernel prefers.
            let before = scene.drops("not_uplink");
            let default = host.json(&format!("ip {family} -json route show default"));
            let gateway = default[0]["gateway"].as_str().unwrap().to_owned();
            host.ip(&format!("route replace default via {router} dev {THIRD}"));
            host.try_shell(&format!("ip {family} route delete default dev {UPLINK}"));
            wait_until("it is closed", SOON, || {
                scene.leaves(remote).is_none() && scene.drops("not_uplink") > before
            });
            host.ip(&format!("route replace default via {gateway} dev {UPLINK}"));
            host.try_shell(&format!("ip {family} route delete default dev {THIRD}"));
            wait_until("it is open", SOON, || scene.leaves(remote).is_some());
        }
    }
    scene.check_third();
}

#[test]
fn rules_of_policy_routing_are_not_followed() {
    let scene = Scene::new();
    let host = &scene.world.host;
    for (family, router) in [("-4", "192.0.2.1"), ("-6", "2001:db8:110::1")] {
        host.ip(&format!(
            "{family} route add default via {router} dev {THIRD} table 100"
        ));
        host.ip(&format!(
            "{family} rule add from all lookup 100 priority 10"
        ));
    }
    for remote in &SILENT[..2] {
        let found = host.shell(&format!("ip route get {remote}"));
        assert!(found.contains(THIRD), "the host itself follows: {found}");
        // A change that the agent follows, so that it has read the routes since.
        host.ip(&format!(
            "route add 10.99.0.0/24 via {ROUTER_V4} dev {UPLINK}"
        ));
        wait_until("the agent reads the routes", SOON, || {
            scene.leaves("10.99.0.9".parse().unwrap()).is_some()
        });
        host.ip("route delete 10.99.0.0/24");
        let router = scene.leaves(*remote).map(|(_, router)| router);
        assert_eq!(router, Some(scene.world.router_mac()));
    }
    scene.check_third();
}

#[test]
fn a_neighbour_on_the_uplinks_network_is_sent_to_itself() {
    let scene = Scene::new();
    for (number, neighbour) in SILENT[2..].iter().enumerate() {
        let mac = [2, 0, 0, 0, 8, number as u8];
        scene.world.host.ip(&format!(
            "neighbour replace {neighbour} lladdr {} dev {UPLINK} nud permanent",
            link_layer(mac)
        ));
        let to = scene.leaves(*neighbour).map(|(_, to)| to);
        assert_eq!(to, Some(mac), "not to the gateway");
    }
    for remote in &SILENT[..2] {
        let to = scene.leaves(*remote).map(|(_, to)| to);
        assert_eq!(to, Some(scene.world.router_mac()));
    }
    // A way of two hops to the neighbour's own neighbour is the route's.
    scene.world.host.ip(&format!(
        "route add 203.0.113.192/26 via {} dev {UPLINK}",
        SILENT[2]
    ));
    wait_until("the more specific route is taken", SOON, || {
        scene.leaves(SILENT[0]).map(|(_, to)| to) == Some([2, 0, 0, 0, 8, 0])
    });
}

#[test]
fn a_flow_keeps_its_port_while_there_is_no_route() {
    let scene = Scene::new();
    let remote = SILENT[0];
    let port = || {
        while scene.wire.receive_now().is_some() {}
        let question = packet::udp(&scene.nic().to(remote), (9_000, 7), b"which port");
        scene.nic().tap.send_bytes(question);
        let received = std::iter::from_fn(|| scene.wire.receive_now());
        let mut packets = received.filter_map(|one| Packet::parse(&one.frame.bytes));
        let mut ours = packets.by_ref().filter(|one| one.payload == b"which port");
        ours.next().map(|packet| packet.ports.0)
    };
    let before = port().expect("there is a way");
    let host = &scene.world.host;
    host.ip("-4 route delete default");
    wait_until("the way is closed", SOON, || port().is_none());
    assert!(scene.drops("no_route") > 0);
    host.ip(&format!("route add default via {ROUTER_V4}"));
    wait_until("the way is open", SOON, || port().is_some());
    assert_eq!(port(), Some(before));
}
