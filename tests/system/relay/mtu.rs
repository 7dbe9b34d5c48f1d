//! How large a packet may be on a way by a relay: its narrowest part decides, and the client learns it (N-7).

use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::relay::{SHIELD, SHIELD_INTERFACE, Scene, client};
use netagent_tests::server::{PORT, Server};
use netagent_tests::world::{ROUTER_V4, ROUTER_V6, UPLINK};
use serde_json::json;

use crate::path::check_path_mtu;
use crate::relay::{FAMILIES, server, udp_socket};
use crate::stacks::echo_tcp;

const NARROW: u32 = 1_300;

/// A client learns it by datagrams, and megabytes of TCP cross.
fn check_narrow(scene: &Scene) {
    for is_v4 in FAMILIES {
        let remote = server(is_v4, 0);
        let _udp = Server::udp(&scene.world.outside, remote);
        let _tcp = Server::tcp(&scene.world.outside, remote);
        let netns = scene.client().netns();
        check_path_mtu(netns, remote, NARROW);
        netns.ip("route flush cache");
        netns.ip("-6 route flush cache");
        echo_tcp(netns, remote, 2 << 20);
    }
}

#[test]
fn r1_a_client_learns_of_a_narrow_uplink_through_the_relay() {
    let scene = Scene::new("", &[client("sandbox")]);
    let host = &scene.world.host;
    host.ip(&format!(
        "route change default via {ROUTER_V4} mtu {NARROW}"
    ));
    host.ip(&format!(
        "-6 route change default via {ROUTER_V6} dev {UPLINK} mtu {NARROW}"
    ));
    check_narrow(&scene);
    // IPv6 alone: pieces that may be cut further are dropped, with a relay or without, since the programs cut nothing.
    let remote = server(false, 0);
    let _udp = Server::udp(&scene.world.outside, remote);
    let socket = udp_socket(scene.client().netns(), false);
    socket.set_read_timeout(Some(SOON / 20)).unwrap();
    // The first ones are lost: with them the client learns how large they may be.
    wait_until("a datagram in pieces comes back", SOON, || {
        let asked = socket.send_to(&[7; 8_000], (remote, PORT));
        let mut answer = [0; 8_001];
        asked.is_ok() && socket.recv(&mut answer).is_ok_and(|length| length == 8_000)
    });
}

#[test]
fn r1_a_client_learns_of_a_relay_whose_own_cable_is_narrow() {
    let relay = json!({
        "name": SHIELD,
        "network_interfaces": [{ "name": SHIELD_INTERFACE, "mtu": NARROW }],
    });
    let scene = Scene::with_relay("", &relay, &[client("sandbox")]);
    check_narrow(&scene);
}
