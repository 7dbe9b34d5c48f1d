//! A bridge over TAPs and uplink: guests are hosts of the uplink's network.

use std::net::{Ipv4Addr, Ipv6Addr};

use netagent_tests::netns::NetNs;
use netagent_tests::world::{HOST_V4, ROUTER_V4, UPLINK, World};

use super::{TAPS, take_queues_away};

const BRIDGE: &str = "br0";

pub(super) const fn guest_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, 10 + number)
}

pub(super) const fn guest_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 10 + number as u16)
}

pub(super) fn set_up(world: &World) {
    let host = &world.host;
    pass_firewalls_by(host);
    let mut lines = vec![
        format!("link add {BRIDGE} type bridge"),
        format!("address flush dev {UPLINK}"),
        format!("link set {BRIDGE} up"),
        format!("address add {HOST_V4}/24 dev {BRIDGE}"),
        format!("route add default via {ROUTER_V4}"),
    ];
    for port in [UPLINK, TAPS[0], TAPS[1]] {
        lines.push(format!("link set {port} master {BRIDGE} up"));
    }
    host.ip_all(&lines);
    take_queues_away(host, &TAPS);
}

/// Where Linux has br_netfilter as a module, nobody loaded it.
fn pass_firewalls_by(host: &NetNs) {
    for table in ["iptables", "ip6tables", "arptables"] {
        let path = format!("net/bridge/bridge-nf-call-{table}");
        if host.read_sysctl(&path).is_some() {
            host.sysctl(&path, "0");
        }
    }
}
