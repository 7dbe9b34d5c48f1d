//! What the users of the kernel's own forwarding type in for guests.

use std::net::{IpAddr, SocketAddr};
use std::slice;

use super::host::{GUEST_PORT, GUEST_V4, PUBLISHED};
use super::way::Way;
use crate::peers::{Match, Rules};
use netagent_tests::netns::NetNs;
use netagent_tests::world::UPLINK;

/// Switches forwarding on, and types the rules in where this way has a firewall.
pub(super) fn forward(host: &NetNs, way: Way, rules: &Rules) {
    host.sysctl("net/ipv4/ip_forward", "1");
    if let Some(firewall) = way.firewall() {
        firewall.load(host, slice::from_ref(rules));
    }
}

/// Masquerade, a filter that lets this guest out and answers in, and one published port.
pub(super) fn of_guest(tap: &'static str) -> Rules {
    let port = vec![Match::From(UPLINK), Match::Port("tcp", PUBLISHED)];
    let guest = SocketAddr::new(IpAddr::V4(GUEST_V4), GUEST_PORT);
    let to_port = vec![
        Match::To(tap),
        Match::Destination(GUEST_V4.to_string()),
        Match::Port("tcp", GUEST_PORT),
    ];
    Rules {
        published: vec![(port, guest)],
        masqueraded: vec![vec![Match::Source(GUEST_V4.to_string()), Match::To(UPLINK)]],
        accepted: vec![vec![Match::From(tap), Match::To(UPLINK)], to_port],
        ..Rules::closed()
    }
}
