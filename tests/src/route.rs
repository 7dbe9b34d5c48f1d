//! A route of either family.

use std::net::IpAddr;

use netagent_common::policy::Route;

/// A route, before it is written for one family.
#[derive(Clone, Copy, Debug)]
pub struct RouteTo {
    /// A [`netagent_common::policy::RouteKind`] as a number.
    pub kind: u32,
    /// Interface index of the uplink.
    pub ifindex: u32,
    /// MTU of the way.
    pub mtu: u32,
    /// Neighbour on the way; `None` on-link.
    pub next_hop: Option<IpAddr>,
    /// Address that stands for guests.
    pub source: Option<IpAddr>,
}

impl RouteTo {
    /// As the map of a family holds it.
    pub(crate) fn wire<const N: usize>(&self, octets: fn(IpAddr) -> [u8; N]) -> Route<[u8; N]> {
        let address = |address: Option<IpAddr>| address.map_or([0; N], octets);
        Route {
            kind: self.kind,
            ifindex: self.ifindex,
            mtu: self.mtu,
            next_hop: address(self.next_hop),
            source: address(self.source),
        }
    }
}

pub(crate) fn v4_octets(address: IpAddr) -> [u8; 4] {
    let IpAddr::V4(address) = address else {
        panic!("{address} is not IPv4")
    };
    address.octets()
}

pub(crate) fn v6_octets(address: IpAddr) -> [u8; 16] {
    let IpAddr::V6(address) = address else {
        panic!("{address} is not IPv6")
    };
    address.octets()
}
