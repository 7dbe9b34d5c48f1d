//! The uplink changes under running flows: address, route, MTU.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_for, wait_until};
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::packet::{self, Packet};
use netagent_tests::raw::Raw;
use netagent_tests::tap::Header;
use netagent_tests::world::{HOST_V4, HOST_V6, ROUTER_V4, SILENT, UPLINK, World};

/// Sends datagrams until one leaves, and says from which address and to which hardware address.
pub(crate) fn leaves(
    nic: &Nic,
    wire: &Raw,
    remote: IpAddr,
    port: u16,
) -> Option<(IpAddr, [u8; 6])> {
    while wire.receive_now().is_some() {}
    nic.tap
        .send_bytes(packet::udp(&nic.to(remote), (port, 7), b"which way"));
    let received = std::iter::from_fn(|| wire.receive_now());
    let mut packets = received.filter_map(|received| Packet::parse(&received.frame.bytes));
    let packet =
        packets.find(|packet| packet.payload == b"which way" && packet.ends.dst == remote)?;
    Some((packet.ends.src, packet.ends.dst_mac))
}

fn setup() -> (World, Agent, Guest, Raw) {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "moving", Header::Vnet);
    let wire = world.wire();
    (world, agent, guest, wire)
}

#[test]
fn new_flows_and_old_ones_follow_a_new_address_of_the_uplink() {
    let (world, _agent, guest, wire) = setup();
    let changes: [(usize, IpAddr, IpAddr); 2] = [
        (0, HOST_V4.into(), Ipv4Addr::new(198, 51, 100, 3).into()),
        (
            1,
            HOST_V6.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 3).into(),
        ),
    ];
    // Else the second address goes with the first.
    let promote = format!("net/ipv4/conf/{UPLINK}/promote_secondaries");
    world.host.sysctl(&promote, "1");
    for (index, before, after) in changes {
        let remote = SILENT[index];
        let from = |port| leaves(guest.nic(), &wire, remote, port).map(|(source, _)| source);
        assert_eq!(from(9_000), Some(before));
        let (length, flags) = if before.is_ipv4() {
            (24, "")
        } else {
            (64, "nodad")
        };
        world.host.ip(&format!(
            "address add {after}/{length} dev {UPLINK} {flags}"
        ));
        world
            .host
            .ip(&format!("address delete {before}/{length} dev {UPLINK}"));
        if before.is_ipv4() {
            // The kernel takes the default route away with the address that it used.
            world
                .host
                .ip(&format!("route replace default via {ROUTER_V4}"));
        }
        for port in [9_000, 9_001] {
            wait_until("flows follow", SOON, || from(port) == Some(after));
        }
    }
}

#[test]
fn flows_follow_a_new_default_route() {
    let (world, _agent, guest, wire) = setup();
    let mac = |byte| [2, 0, 0, 0, 7, byte];
    let routers = ["198.51.100.9", "2001:db8:100::9"];
    for (router, remote) in routers.into_iter().zip([SILENT[0], SILENT[1]]) {
        let to = || leaves(guest.nic(), &wire, remote, 9_000).map(|(_, router)| router);
        assert_eq!(to(), Some(world.router_mac()));
        let link_layer = netagent_tests::world::link_layer(mac(9));
        world.host.ip(&format!(
            "neighbour replace {router} lladdr {link_layer} dev {UPLINK} nud permanent"
        ));
        world
            .host
            .ip(&format!("route replace default via {router} dev {UPLINK}"));
        wait_until("the flow follows", SOON, || to() == Some(mac(9)));
    }
}

#[test]
fn what_is_reached_by_another_interface_is_closed_to_guests() {
    use netagent_tests::netns::{NetNs, join_by_veth};
    let (world, agent, guest, wire) = setup();
    let remote: IpAddr = "10.77.0.9".parse().unwrap();
    assert!(leaves(guest.nic(), &wire, remote, 9_000).is_some());
    let management = NetNs::new();
    join_by_veth((&world.host, "mgmt0"), (&management, "mgmt1"));
    world.host.ip("address add 10.77.0.1/24 dev mgmt0");
    wait_until("the flow ends", SOON, || {
        leaves(guest.nic(), &wire, remote, 9_000).is_none()
    });
    wait_until("it is counted", SOON, || {
        agent.drops("moving").contains_key("not_uplink")
    });
    let own: IpAddr = "10.77.0.1".parse().unwrap();
    assert_eq!(leaves(guest.nic(), &wire, own, 9_000), None);
    wait_until("it is counted", SOON, || {
        agent.drops("moving").contains_key("host_address")
    });
    world.host.ip("link delete mgmt0");
    wait_until("it is open again", SOON, || {
        leaves(guest.nic(), &wire, remote, 9_000).is_some()
    });
}

#[test]
fn a_refused_route_is_refused_to_guests() {
    let (world, agent, guest, wire) = setup();
    let remote = SILENT[0];
    world.host.ip("route add blackhole 203.0.113.192/26");
    wait_until("the route closes", SOON, || {
        leaves(guest.nic(), &wire, remote, 9_000).is_none()
    });
    wait_until("it is counted", SOON, || {
        agent.drops("moving").contains_key("no_route")
    });
}

#[test]
fn taps_follow_the_uplinks_mtu() {
    let (world, agent, guest, wire) = setup();
    let mtu =
        |name: &str| world.host.json(&format!("ip -json link show dev {name}"))[0]["mtu"].as_u64();
    assert_eq!(mtu(&guest.nic().tap_name), Some(1_500));
    world.outside.ip("link set world0 mtu 1400");
    world.host.ip(&format!("link set {UPLINK} mtu 1400"));
    wait_for("the TAP follows", SOON, || {
        (mtu(&guest.nic().tap_name) == Some(1_400)).then_some(())
    });
    let before = agent.drops("moving").get("too_big").copied().unwrap_or(0);
    guest.nic().tap.send_bytes(packet::udp(
        &guest.nic().to(SILENT[0]),
        (1, 2),
        &[0; 1_401 - 28],
    ));
    wait_until("1,401 bytes are too many now", SOON, || {
        agent.drops("moving").get("too_big").copied().unwrap_or(0) > before
    });
    assert!(leaves(guest.nic(), &wire, SILENT[0], 9_002).is_some());
    assert_eq!(
        agent.inspect("moving")["network_interfaces"][0]["mtu"],
        1_400
    );
}
