//! The kernel as the guests' router: an address on each TAP, and forwarding; with one rule set for the network of all
//! guests, as Hyperfleet loads it, where there is a firewall.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netagent_common::net::GATEWAY_MAC;

use netagent_tests::netns::NetNs;
use netagent_tests::world::{HOST_V4, HOST_V6, UPLINK, World, link_layer};

use super::firewall::{Firewall, Match, Rules};
use super::{Kind, TAPS, take_queues_away};
use crate::variant::{GUEST_PORT, PUBLISHED};

/// Of all guests.
pub(crate) const NETWORK_V4: &str = "172.16.0.0/16";
/// Of all guests.
pub(crate) const NETWORK_V6: &str = "fd00:be::/32";

pub(crate) const fn guest_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 0, 4 * number + 2)
}

pub(crate) const fn guest_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0xbe, 0, number as u16, 0, 0, 0, 2)
}

pub(super) fn set_up(world: &World) {
    let host = &world.host;
    let mut lines = Vec::new();
    for (number, tap) in (0_u8..).zip(TAPS) {
        let mac = link_layer(GATEWAY_MAC);
        lines.push(format!("link set {tap} address {mac} up"));
        lines.push(format!(
            "address add 172.16.0.{}/30 dev {tap}",
            4 * number + 1
        ));
        lines.push(format!(
            "address add fd00:be:0:{number}::1/64 dev {tap} nodad"
        ));
        let guest = Kind::Route.identity(world, number);
        let guest_mac = link_layer(guest.mac);
        for address in [IpAddr::from(guest.v4), guest.v6.into()] {
            lines.push(format!(
                "neighbour replace {address} lladdr {guest_mac} dev {tap} nud permanent"
            ));
        }
    }
    host.ip_all(&lines);
    take_queues_away(host, &TAPS);
    switch_forwarding_on(world);
    // Where nobody translates, the world has to know the way back.
    world.outside.ip_all(&[
        format!("route add {NETWORK_V4} via {HOST_V4}"),
        format!("route add {NETWORK_V6} via {HOST_V6}"),
    ]);
}

pub(crate) fn switch_forwarding_on(world: &World) {
    world.host.sysctl("net/ipv4/ip_forward", "1");
    world.host.sysctl("net/ipv6/conf/all/forwarding", "1");
}

/// Masquerade, a filter of what is forwarded, and a published port.
pub(crate) fn load(host: &NetNs, firewall: Firewall) {
    let rules = |is_v4: bool, network: &str| {
        let (source, destination) = (
            Match::Source(network.to_owned()),
            Match::Destination(network.to_owned()),
        );
        let leaving = vec![source, Match::To(UPLINK)];
        Rules {
            is_v4,
            masqueraded: vec![leaving.clone()],
            accepted: vec![leaving, vec![destination, Match::From(UPLINK)]],
            is_closed: false,
            ..Rules::closed()
        }
    };
    let port = vec![Match::From(UPLINK), Match::Port("udp", PUBLISHED)];
    let guest = SocketAddr::new(guest_v4(0).into(), GUEST_PORT);
    let v4 = Rules {
        published: vec![(port, guest)],
        ..rules(true, NETWORK_V4)
    };
    firewall.load(host, &[v4, rules(false, NETWORK_V6)]);
    // The frames of a super-frame round repeat their sequence numbers.
    host.sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1");
}
