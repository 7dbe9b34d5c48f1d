//! An uplink with several addresses: guests leave with the one that the host itself would take.

use std::net::IpAddr;

use netagent_tests::guest::Guest;
use netagent_tests::tap::Header;
use netagent_tests::world::{HOST_V4, HOST_V6, ROUTER_V4, SILENT, UPLINK, World};

use crate::changes::leaves;

/// The source that the host's own packets to this address get.
fn of_the_host(world: &World, remote: IpAddr) -> IpAddr {
    let routes = world.host.json(&format!("ip -json route get {remote}"));
    let source = routes[0]["prefsrc"].as_str();
    source.expect("the kernel names it").parse().unwrap()
}

/// Starts an agent, and compares the source of guests' packets with the host's own, and with `expected`.
fn check(world: &World, expected: [IpAddr; 2]) {
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "choosy", Header::Vnet);
    let wire = world.wire();
    for remote in SILENT {
        let own = of_the_host(world, remote);
        assert_eq!(own, expected[usize::from(!remote.is_ipv4())], "{remote}");
        let found = leaves(guest.nic(), &wire, remote, 9_000).map(|(source, _)| source);
        assert_eq!(found, Some(own), "{remote}");
    }
}

#[test]
fn a_secondary_or_deprecated_address_of_the_uplink_stands_for_nobody() {
    let world = World::new();
    // One before the first address in the order of numbers would be the router's: the other test has it.
    world
        .host
        .ip(&format!("address add 198.51.100.130/24 dev {UPLINK}"));
    for deprecated in ["2001:db8:100::", "2001:db8:100::f0"] {
        world.host.ip(&format!(
            "address add {deprecated}/64 dev {UPLINK} nodad preferred_lft 0"
        ));
    }
    check(&world, [HOST_V4.into(), HOST_V6.into()]);
}

#[test]
fn the_first_address_of_the_uplink_stands_for_guests_though_its_number_is_higher() {
    let world = World::new();
    let first: [IpAddr; 2] = [
        "198.51.100.60".parse().unwrap(),
        "2001:db8:100::60".parse().unwrap(),
    ];
    let promote = format!("net/ipv4/conf/{UPLINK}/promote_secondaries");
    world.host.sysctl(&promote, "1");
    world
        .host
        .ip(&format!("address add {}/24 dev {UPLINK}", first[0]));
    world
        .host
        .ip(&format!("address delete {HOST_V4}/24 dev {UPLINK}"));
    world
        .host
        .ip(&format!("address add {HOST_V4}/24 dev {UPLINK}"));
    // The kernel takes the default route away with the address that it used.
    world
        .host
        .ip(&format!("route replace default via {ROUTER_V4}"));
    world
        .host
        .ip(&format!("address add {}/64 dev {UPLINK} nodad", first[1]));
    // Deprecated: only what is there already uses it.
    world.host.ip(&format!(
        "address change {HOST_V6}/64 dev {UPLINK} preferred_lft 0"
    ));
    check(&world, first);
}
