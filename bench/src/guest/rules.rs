//! What the users of the kernel's own forwarding type in for guests.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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

/// A filter that lets the first guest open connections to the other.
pub(super) fn of_neighbours([from, to]: [&'static str; 2]) -> Rules {
    Rules {
        accepted: vec![vec![Match::From(from), Match::To(to)]],
        ..Rules::closed()
    }
}

/// Masquerade of a client behind its relay, and a filter that lets it go this way. A packet of the client's comes by
/// twice: a connection that is tracked from the client to the relay would leave the host as it was there.
pub(super) fn of_relayed(client: Ipv4Addr, [from, through]: [&'static str; 2]) -> Rules {
    let client = client.to_string();
    let to_client = vec![Match::From(through), Match::Destination(client.clone())];
    Rules {
        untracked: vec![vec![Match::From(from)], to_client],
        masqueraded: vec![vec![Match::Source(client), Match::To(UPLINK)]],
        accepted: vec![
            vec![Match::From(from), Match::To(through)],
            vec![Match::From(through), Match::To(from)],
            vec![Match::From(through), Match::To(UPLINK)],
        ],
        ..Rules::closed()
    }
}
