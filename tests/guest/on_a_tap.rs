//! A VM plugged into a TAP of netagent.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::ping::ping;
use netagent_tests::server::Server;
use netagent_tests::world::{World, host_address, server_v4, server_v6};
use serde_json::json;
use xtask::guest::{Guest, NETWORK_CARD};

use crate::machine::{Machine, initramfs};

/// Time for the boot and everything that the guest does, under emulation on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Lines of the page, some 150 segments of TCP: the numbers from 1 on, so that the guest can tell what it must be.
const LINES: u32 = 40_000;

const SCRIPT: &str = include_str!("on_a_tap.sh");

#[test]
fn a_vm_on_a_tap_of_netagent_reaches_the_world() {
    let world = World::new();
    let page: String = (1..=LINES).map(|number| format!("{number}\n")).collect();
    let page = &*page.leak();
    let addresses: [IpAddr; 2] = [server_v4(0).into(), server_v6(0).into()];
    let servers = addresses.map(|address| Server::page(&world.outside, address, page));
    let agent = world.agent("");
    let instance = agent.create(&json!({ "name": "machine" }));
    let interface = &instance["network_interfaces"][0];
    let is_attached = || agent.inspect("machine")["network_interfaces"][0]["attached"] == true;

    let mut guest = Guest::new(initramfs(SCRIPT, &NETWORK_CARD)).unwrap();
    guest.plug_in(interface).unwrap();
    guest.namespace = Some(PathBuf::from(world.host.path()));
    let told = addresses.map(|address| format!("na.world={address}"));
    guest.arguments.extend(told);
    guest.arguments.push(format!("na.lines={LINES}"));
    let mut machine = Machine::boot(&guest);
    machine.wait_for_line("guest: everything was reached", LIMIT);

    for (address, server) in addresses.iter().zip(&servers) {
        let peers: Vec<IpAddr> = server.peers().iter().map(|peer| peer.ip()).collect();
        assert_eq!(peers, [host_address(address.is_ipv4())]);
    }
    for member in ["ip", "ip6"] {
        let network = interface[member].as_str().unwrap();
        let address: IpAddr = network.split('/').next().unwrap().parse().unwrap();
        ping(&world.host, address, (3, 1_000)).unwrap();
    }
    assert!(is_attached());
    eprintln!("{}", machine.console());
    drop(machine);
    wait_until("the TAP is free again", SOON, || !is_attached());
}
