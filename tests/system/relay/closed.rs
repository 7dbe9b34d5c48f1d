//! What stays closed between clients and relay, and what a relay cannot send.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;

use netagent_common::net::GATEWAY_MAC;
use netagent_tests::client::connect;
use netagent_tests::deadline::SOON;
use netagent_tests::packet::{self, Ends};
use netagent_tests::raw::Raw;
use netagent_tests::relay::{Scene, Vm, client, packets_of};
use netagent_tests::server::PORT;
use netagent_tests::stack::INSIDE;
use serde_json::json;

use crate::exchange::Protocol;
use crate::policy::site::{ask_tcp, serve};
use crate::relay::{FAMILIES, exchange, pings, saw, server, udp_socket};

const FORGED: &[u8] = b"nobody may see this";

fn ends(from: &Vm, src: IpAddr, dst: IpAddr) -> Ends {
    Ends {
        src_mac: from.mac,
        dst_mac: GATEWAY_MAC,
        src,
        dst,
        ttl: 64,
    }
}

/// Sends it past the VM's own stack, in every protocol: nobody but the sender sees it. What was sent before it is
/// judged by then: an exchange of the sender follows it on the same cable.
fn check_lost(scene: &Scene, from: &Vm, (src, dst): (IpAddr, IpAddr)) {
    scene.forget();
    let drops = || {
        let listed = scene.agent.api("GET", "/v1/instances", "").body;
        let names = listed.as_array().unwrap().iter();
        let names = names.map(|instance| instance["name"].as_str().unwrap());
        names
            .map(|name| sum(&scene.agent.guest_drops(name)))
            .sum::<u64>()
    };
    let before = drops();
    let cable = Raw::open(from.netns(), INSIDE);
    for protocol in Protocol::ALL {
        let ports = (7_777, PORT);
        for bytes in [
            protocol.question(&ends(from, src, dst), ports, FORGED),
            protocol.answer(&ends(from, src, dst), ports, FORGED),
        ] {
            cable.send_bytes(bytes);
        }
    }
    exchange(from.netns(), Protocol::Udp, server(true, 0), b"after it");
    let what = format!("{src} to {dst} from {}", from.name);
    for vm in scene.clients.iter().chain([scene.relay()]) {
        assert!(
            vm.name == from.name || !saw(vm, FORGED),
            "{what}: {}",
            vm.name
        );
    }
    let is_forged = |packet: &packet::Packet| packet.payload.ends_with(FORGED);
    let left = packets_of(&scene.uplink.left());
    assert!(!left.iter().any(is_forged), "{what}: {left:?}");
    assert!(drops() >= before + 6, "{what}: each of them is counted");
}

fn sum(drops: &BTreeMap<String, u64>) -> u64 {
    drops.values().sum()
}

#[test]
fn r3_clients_and_relay_do_not_reach_each_other() {
    let scene = Scene::new("", &["one", "two"].map(client));
    let (one, two, relay) = (&scene.clients[0], &scene.clients[1], scene.relay());
    let _echo = serve(&scene.world.outside, &[server(true, 0)]);
    for is_v4 in FAMILIES {
        let _servers: Vec<_> = scene
            .clients
            .iter()
            .chain([relay])
            .flat_map(|vm| serve(vm.netns(), &[vm.address(is_v4)]))
            .collect();
        for (from, to) in [(one, two), (two, one), (one, relay), (relay, one)] {
            let addresses = (from.address(is_v4), to.address(is_v4));
            check_lost(&scene, from, addresses);
        }
        // Nor does one send in the name of another (P-8).
        let world = server(is_v4, 3);
        for claimed in [two, relay] {
            check_lost(&scene, one, (claimed.address(is_v4), world));
        }
        check_lost(&scene, one, (server(is_v4, 4), world));
    }
}

#[test]
fn r5_a_relay_sends_nothing_in_the_name_of_those_who_are_not_its_clients() {
    let scene = Scene::new("", &["one", "two"].map(client));
    let _echo = serve(&scene.world.outside, &[server(true, 0)]);
    let other = Vm::create(&scene.world, &scene.agent, &json!({ "name": "other" }));
    let relay = scene.relay();
    for is_v4 in FAMILIES {
        let (one, two) = (
            scene.clients[0].address(is_v4),
            scene.clients[1].address(is_v4),
        );
        let stranger: IpAddr = if is_v4 {
            [172, 16, 99, 2].into()
        } else {
            "fd12:3456:789a::2".parse().unwrap()
        };
        let world = server(is_v4, 3);
        for pair in [
            // To the world: others of the host, nobody, the world itself.
            (other.address(is_v4), world),
            (stranger, world),
            (server(is_v4, 4), world),
            // To clients: another client, the relay itself, others, and what no flow awaits.
            (one, two),
            (relay.address(is_v4), two),
            (other.address(is_v4), two),
            (world, two),
            // To one that is no client.
            (world, other.address(is_v4)),
            (one, other.address(is_v4)),
        ] {
            check_lost(&scene, relay, pair);
            assert!(!saw(&other, FORGED), "{pair:?}");
        }
    }
}

#[test]
fn p12_where_instances_of_an_account_reach_each_other_those_with_a_relay_do_not() {
    let configuration = "[policy]\nvm_to_vm = \"account\"\n";
    let scene = Scene::new(configuration, &["one", "two"].map(client));
    let _echo = serve(&scene.world.outside, &[server(true, 0)]);
    let spec = |name| json!({ "name": name });
    let [free, other] = ["free", "other"].map(|name| {
        let vm = Vm::create(&scene.world, &scene.agent, &spec(name));
        scene.wait_for_client(&vm);
        vm
    });
    let (one, two) = (&scene.clients[0], &scene.clients[1]);
    for is_v4 in FAMILIES {
        assert!(pings(free.netns(), other.address(is_v4)), "others do");
        for (from, to) in [(one, two), (one, &free), (&free, one)] {
            free.forget();
            check_lost(&scene, from, (from.address(is_v4), to.address(is_v4)));
            assert!(from.name == "free" || !saw(&free, FORGED));
        }
    }
}

#[test]
fn r5_errors_of_the_relay_about_a_flow_reach_its_client_and_others_do_not() {
    let scene = Scene::new("", &["one", "two"].map(client));
    let (one, two, relay) = (&scene.clients[0], &scene.clients[1], scene.relay());
    let nft = |words: &str| relay.netns().shell(&format!("nft {words}"));
    nft("add table inet shield");
    nft("add chain inet shield forward { type filter hook forward priority 0 ; }");
    nft("add rule inet shield forward udp dport 9 reject");
    nft("add rule inet shield forward tcp dport 9 reject with tcp reset");
    for is_v4 in FAMILIES {
        let remote = server(is_v4, 0);
        let socket = udp_socket(one.netns(), is_v4);
        socket.connect((remote, 9)).unwrap();
        socket.send(b"is it permitted").unwrap();
        let refused = socket.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{remote}");
        let refused = connect(one.netns(), (remote, 9).into()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{remote}");
    }

    // An error about a flow that is not there, and one about another client's.
    let _echo = serve(
        &scene.world.outside,
        &FAMILIES.map(|is_v4| server(is_v4, 0)),
    );
    let cable = Raw::open(relay.netns(), INSIDE);
    for is_v4 in FAMILIES {
        let remote = server(is_v4, 0);
        let socket = udp_socket(one.netns(), is_v4);
        socket.connect((remote, PORT)).unwrap();
        socket.send(b"a flow").unwrap();
        socket.recv(&mut [0; 8]).unwrap();
        let own = socket.local_addr().unwrap().port();
        scene.forget();
        let about = |src: IpAddr, port| {
            let inner = packet::udp(&ends(one, src, remote), (port, PORT), FORGED);
            let (kind, headers) = if is_v4 { ((3, 13), 28) } else { ((1, 1), 48) };
            let inner = &inner[14..14 + headers + FORGED.len()];
            (kind, [&[0; 4], inner].concat())
        };
        let relay_address = relay.address(is_v4);
        for (dst, src, port) in [
            (one.address(is_v4), one.address(is_v4), own ^ 1),
            (two.address(is_v4), one.address(is_v4), own),
            (two.address(is_v4), two.address(is_v4), own),
        ] {
            let (kind, body) = about(src, port);
            cable.send_bytes(packet::icmp(&ends(relay, relay_address, dst), kind, &body));
        }
        exchange(relay.netns(), Protocol::Udp, server(true, 0), b"after it");
        assert!(!saw(one, FORGED) && !saw(two, FORGED));
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.send(b"it lives").unwrap();
        socket.recv(&mut [0; 8]).unwrap();
    }
    assert_eq!(ask_tcp(one.netns(), (server(true, 0), PORT).into()), Ok(()));
}
