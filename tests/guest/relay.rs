//! A VM whose traffic passes another VM: the relay forwards, and refuses by rules of nft.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use netagent_tests::server::Server;
use netagent_tests::world::{World, host_address, server_v4, server_v6};
use serde_json::{Value, json};
use xtask::guest::{Guest, NETWORK_CARD};
use xtask::paths;

use crate::machine::{Machine, initramfs};

/// Time for the boot and everything that a guest does, under emulation on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
const PAGE: &str = "it works\n";

/// What the relay's rules need.
const RULE_MODULES: [&str; 3] = ["nf_tables", "nft_ct", "nft_reject_inet"];

/// The world's servers: those that the relay permits, and those that it does not.
fn servers() -> [[IpAddr; 2]; 2] {
    [0, 1].map(|index| [server_v4(index).into(), server_v6(index).into()])
}

fn guest(world: &World, instance: &Value, script: &str) -> Guest {
    let mut files = initramfs(script, &NETWORK_CARD);
    files.add_modules(&RULE_MODULES).unwrap();
    let nft = paths::find_program("nft").expect("`cargo xtask setup` installs it");
    files.add_binary_with_libraries(&nft).unwrap();
    let mut guest = Guest::new(files).unwrap();
    guest.plug_in(&instance["network_interfaces"][0]).unwrap();
    guest.namespace = Some(PathBuf::from(world.host.path()));
    let [permitted, refused] = servers();
    for (name, addresses) in [("permitted", permitted), ("refused", refused)] {
        let told = addresses.map(|address| format!("na.{name}={address}"));
        guest.arguments.extend(told);
    }
    guest
}

#[test]
fn r1_a_vm_fetches_pages_through_a_relay_vm_and_is_refused_by_its_rules() {
    let world = World::new();
    let [permitted, refused] = servers().map(|addresses| {
        addresses.map(|address| (address, Server::page(&world.outside, address, PAGE)))
    });
    let agent = world.agent("");
    let shield = agent
        .create(&json!({ "name": "shield", "network_interfaces": [{ "name": "shield-front" }] }));
    let sandbox = agent.create(&json!({
        "name": "sandbox",
        "network_interfaces": [{ "relay": { "name": "shield-front" } }],
    }));
    let mut relay = Machine::boot(&guest(&world, &shield, include_str!("relay.sh")));
    let mut client = Machine::boot(&guest(&world, &sandbox, include_str!("relayed.sh")));
    relay.wait_for_line("guest: it forwards", LIMIT);
    client.wait_for_line("guest: everything was as it should be", LIMIT);
    eprintln!("{}{}", relay.console(), client.console());
    for (address, server) in &permitted {
        let peers: Vec<IpAddr> = server.peers().iter().map(|peer| peer.ip()).collect();
        assert!(!peers.is_empty(), "{address}");
        assert!(
            peers
                .iter()
                .all(|peer| *peer == host_address(address.is_ipv4()))
        );
    }
    for (address, server) in &refused {
        assert_eq!(server.peers(), [], "{address}");
    }
}
