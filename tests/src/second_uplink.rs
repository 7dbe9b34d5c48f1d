//! A second uplink of the host, which leads to a part of the world that the first does not reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netns::{NetNs, join_by_veth};
use crate::raw::Raw;
use crate::world::World;

/// The second uplink.
pub const SECOND: &str = "uplink1";
/// The other end of its cable.
pub const SECOND_FAR_END: &str = "beyond0";
/// Both uplinks, as the command line takes them.
pub const BOTH: &str = "uplink0,uplink1";

const HOST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x110, 0, 0, 0, 0, 2);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x110, 0, 0, 0, 0, 1);

/// Its own addresses, which stand for guests.
pub const SECOND_ADDRESSES: [IpAddr; 2] = [IpAddr::V4(HOST_V4), IpAddr::V6(HOST_V6)];
/// Its routers.
pub const SECOND_ROUTERS: [IpAddr; 2] = [IpAddr::V4(ROUTER_V4), IpAddr::V6(ROUTER_V6)];
/// Servers behind it.
pub const BEYOND: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, 9)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x210, 0, 0, 0, 0, 9)),
];
/// The networks that these are in.
pub const BEYOND_NETWORKS: [&str; 2] = ["198.18.0.0/24", "2001:db8:210::/64"];

/// What lies behind the second uplink.
#[derive(Debug)]
pub struct Beyond {
    /// Where the servers are.
    pub netns: NetNs,
}

impl Beyond {
    /// Gives the host a second uplink, with addresses and routes in both families.
    #[must_use]
    pub fn new(world: &World) -> Self {
        let netns = NetNs::new();
        netns.sysctl("net/ipv6/conf/default/accept_ra", "0");
        netns.sysctl("net/ipv6/conf/default/router_solicitations", "0");
        for server in BEYOND {
            netns.ip(&format!("address add {server} dev lo"));
        }
        let beyond = Self { netns };
        beyond.plug_in(world);
        beyond
    }

    /// Makes the cable, which may have been deleted.
    pub fn plug_in(&self, world: &World) {
        let (host, netns) = (&world.host, &self.netns);
        join_by_veth((host, SECOND), (netns, SECOND_FAR_END));
        host.ip(&format!("address add {HOST_V4}/24 dev {SECOND}"));
        host.ip(&format!("address add {HOST_V6}/64 dev {SECOND} nodad"));
        netns.ip(&format!("address add {ROUTER_V4}/24 dev {SECOND_FAR_END}"));
        netns.ip(&format!(
            "address add {ROUTER_V6}/64 dev {SECOND_FAR_END} nodad"
        ));
        for (network, router) in BEYOND_NETWORKS.into_iter().zip(SECOND_ROUTERS) {
            host.ip(&format!("route add {network} via {router} dev {SECOND}"));
        }
    }

    /// Listens at the far end.
    #[must_use]
    pub fn wire(&self) -> Raw {
        Raw::open(&self.netns, SECOND_FAR_END)
    }
}
