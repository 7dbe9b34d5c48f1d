//! A VM boots on a TAP of netagent and reaches the world.

use std::net::IpAddr;
use std::time::Duration;

use netagent_tests::deadline::wait_until;
use netagent_tests::ping::ping;
use netagent_tests::server::Server;
use netagent_tests::world::{HOST_V4, HOST_V6, World, server_v4, server_v6};
use serde_json::json;
use xtask::guest::initramfs::Initramfs;
use xtask::guest::{Guest, NETWORK_CARD, NetworkCard};

use crate::vm::Vm;

/// An emulated processor on a busy machine is slow.
const LIMIT: Duration = Duration::from_secs(120);

const PAGE: &str = "this page comes from the world\n";

const SCRIPT: &str = r#"
    try() { # what command...
        what=$1; shift
        if answer=$("$@" 2>&1); then echo "ok: $what"; else echo "FAILED: $what"; fi
        echo "$answer"
    }
    echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
    ip link set eth0 up
    ip addr add "$(argument ip4)" dev eth0
    ip route add default via "$(argument gw4)"
    ip -6 addr add "$(argument ip6)" dev eth0
    ip -6 route add default via fe80::1 dev eth0
    try "gateway v4" ping -c 2 -W 5 "$(argument gw4)"
    try "gateway v6" ping6 -c 2 -W 5 fe80::1%eth0
    for address in $(argument addresses | tr , ' '); do
        case $address in *:*) command=ping6 url="http://[$address]/" ;; *) command=ping url="http://$address/" ;; esac
        try "ping $address" $command -c 2 -W 5 "$address"
        try "page $address" fetch "$url"
    done
    echo "the guest waits"
    read -r line
"#;

#[test]
fn a_vm_boots_on_a_tap_of_netagent_and_reaches_the_world() {
    let world = World::new();
    let agent = world.agent("");
    let instance = agent.create(&json!({ "name": "vm" }));
    let interface = &instance["network_interfaces"][0];
    let text = |member: &str| interface[member].as_str().unwrap().to_owned();
    let addresses: [IpAddr; 2] = [server_v4(3).into(), server_v6(3).into()];
    let servers = addresses.map(|address| Server::page(&world.outside, address, PAGE));

    let mut initramfs = Initramfs::new(SCRIPT).unwrap();
    initramfs.add_modules(&NETWORK_CARD).unwrap();
    let mut guest = Guest::new(initramfs).unwrap();
    guest.cards = vec![NetworkCard {
        tap: text("tap_name"),
        mac: text("mac"),
    }];
    guest.namespace = Some(world.host.path().into());
    guest.arguments = vec![
        format!("na.ip4={}", text("ip")),
        format!("na.gw4={}", text("tap_ip")),
        format!("na.ip6={}", text("ip6")),
        format!("na.addresses={},{}", addresses[0], addresses[1]),
    ];
    let mut vm = Vm::boot(&guest);
    vm.wait_for_line("the guest waits", LIMIT);

    let console = vm.console();
    assert!(!console.contains("FAILED:"), "{console}");
    for what in ["gateway v4", "gateway v6"] {
        assert!(
            console.contains(&format!("ok: {what}")),
            "{what}: {console}"
        );
    }
    for (address, server) in addresses.iter().zip(&servers) {
        assert!(
            console.contains(&format!("ok: page {address}")),
            "{console}"
        );
        let host: IpAddr = if address.is_ipv4() {
            HOST_V4.into()
        } else {
            HOST_V6.into()
        };
        assert_eq!(
            server
                .peers()
                .iter()
                .map(|peer| peer.ip())
                .collect::<Vec<_>>(),
            [host]
        );
    }
    assert_eq!(console.matches(PAGE.trim_end()).count(), 2, "{console}");
    for member in ["ip", "ip6"] {
        let address: IpAddr = text(member).split('/').next().unwrap().parse().unwrap();
        ping(&world.host, address, (3, 56)).unwrap();
    }
    assert_eq!(
        agent.inspect("vm")["network_interfaces"][0]["attached"],
        true
    );
    drop(vm);
    wait_until("the TAP is free again", LIMIT, || {
        agent.inspect("vm")["network_interfaces"][0]["attached"] == false
    });
}
