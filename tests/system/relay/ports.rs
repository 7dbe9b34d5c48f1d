//! Published and exposed ports of a client: whoever comes in, comes by the relay (R-1, R-5, N-3, N-4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netagent_tests::client::{connect_from, echo};
use netagent_tests::netns::NetNs;
use netagent_tests::packet::Packet;
use netagent_tests::ping::ping;
use netagent_tests::relay::{Scene, Vm, relayed};
use netagent_tests::server::{PORT, Server};
use netagent_tests::world::{host_address, server_v4, server_v6};
use serde_json::{Value, json};

use crate::policy::site::serve;
use crate::published_ports::{check_refused, check_tcp, check_udp};
use crate::relay::FAMILIES;

/// Published on every address of the host.
const OPEN: u16 = 8_080;

fn web() -> Value {
    json!({
        "name": "web",
        "network_interfaces": [relayed(None)],
        "publish": [format!("{OPEN}:{PORT}"), format!("{OPEN}:{PORT}/udp")],
        "exposed_ports": [PORT, format!("{PORT}/udp")],
    })
}

fn serve_both(vm: &Vm) -> Vec<Server> {
    serve(vm.netns(), &FAMILIES.map(|is_v4| vm.address(is_v4)))
}

/// What reached the client since the cables were cleared came out of the relay first, and its answers went in there.
fn check_by_relay(scene: &Scene, client: IpAddr) {
    let is_of_client = |packet: &Packet| {
        let ports = [packet.ports.0, packet.ports.1];
        [packet.ends.src, packet.ends.dst].contains(&client) && ports.contains(&PORT)
    };
    let count = |vm: &Vm, is_from_vm| vm.packets(is_from_vm, is_of_client).len();
    for is_from_vm in [true, false] {
        let direct = count(scene.client(), is_from_vm);
        assert!(direct > 0, "{client}");
        // It goes in once, and comes out once, as it does on the client's cable.
        let towards = count(scene.relay(), !is_from_vm);
        assert!(towards > 0, "{client}: nothing went by the relay");
    }
    let (seen, passed) = (count(scene.client(), false), count(scene.relay(), true));
    assert!(
        passed >= seen,
        "{client}: {seen} seen, {passed} by the relay"
    );
}

#[test]
fn r5_a_published_port_of_a_client_is_reached_by_the_relay() {
    let other = json!({ "name": "other", "network_interfaces": [relayed(None)] });
    let scene = Scene::new("", &[web(), other]);
    let direct = Vm::create(&scene.world, &scene.agent, &json!({ "name": "direct" }));
    let servers = serve_both(scene.client());
    let (world, host) = (&scene.world.outside, &scene.world.host);
    for is_v4 in FAMILIES {
        let to = SocketAddr::new(host_address(is_v4), OPEN);
        let loopback: IpAddr = if is_v4 {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        };
        let client = scene.client().address(is_v4);
        let check = |who: &str, work: &dyn Fn()| {
            scene.forget();
            eprintln!("from {who} to {to}");
            work();
            check_by_relay(&scene, client);
        };
        let stranger: IpAddr = if is_v4 {
            server_v4(3).into()
        } else {
            server_v6(3).into()
        };
        check("the world", &|| {
            echo(connect_from(world, (stranger, 40_000).into(), to), 1 << 20);
            check_udp(world, to);
        });
        let of_family = servers.iter().filter(|server| {
            let peers = server.peers();
            peers.iter().any(|peer| peer.ip() == stranger)
        });
        assert_eq!(of_family.count(), 1, "its own address was seen over TCP");
        for (who, netns) in [
            ("another guest", direct.netns()),
            ("another client", scene.clients[1].netns()),
            ("itself", scene.client().netns()),
        ] {
            check(who, &|| both(netns, to));
        }
        for address in [host_address(is_v4), loopback] {
            check("a process of the host", &|| {
                both(host, (address, OPEN).into());
            });
        }
    }
}

fn both(netns: &NetNs, to: SocketAddr) {
    check_tcp(netns, to, 100_000);
    check_udp(netns, to);
}

#[test]
fn r5_the_host_reaches_a_clients_exposed_ports_by_the_relay_and_pings_it() {
    let scene = Scene::new("", &[web()]);
    let _servers = serve_both(scene.client());
    let host = &scene.world.host;
    for is_v4 in FAMILIES {
        let client = scene.client().address(is_v4);
        scene.forget();
        both(host, (client, PORT).into());
        check_by_relay(&scene, client);
        check_refused(host, (client, 22).into());
        check_refused(&scene.world.outside, (client, PORT).into());
        ping(host, client, (3, 100)).unwrap();
        ping(host, scene.relay().address(is_v4), (3, 100)).unwrap();
    }
}

#[test]
fn r7_published_ports_of_a_client_lead_nowhere_without_its_relay() {
    let mut scene = Scene::new("", &[web()]);
    let _servers = serve_both(scene.client());
    scene.kill_relay();
    for is_v4 in FAMILIES {
        let to = SocketAddr::new(host_address(is_v4), OPEN);
        scene.client().forget();
        check_refused(&scene.world.outside, to);
        check_refused(&scene.world.host, to);
        check_refused(
            &scene.world.host,
            (scene.client().address(is_v4), PORT).into(),
        );
        let reached = scene
            .client()
            .packets(false, |packet| packet.ports.1 == PORT);
        assert_eq!(reached, [], "nothing takes the direct way");
    }
    scene.boot_relay();
    scene.wait_for_relay();
    for is_v4 in FAMILIES {
        check_tcp(
            &scene.world.outside,
            (host_address(is_v4), OPEN).into(),
            1_000,
        );
    }
}
