//! A host and a world in namespaces of their own, joined by the host's uplink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::agent::Agent;
use crate::netns::{NetNs, join_by_veth};
use crate::raw::Raw;

/// The host's uplink.
pub const UPLINK: &str = "uplink0";
/// The other end of the cable.
pub const FAR_END: &str = "world0";

/// The uplink's address, which stands for guests.
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The world's router, on the uplink's network.
pub const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The uplink's address, which stands for guests.
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 2);
/// The world's router, on the uplink's network.
pub const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1);
/// Number of servers behind the router, in each family.
pub const SERVERS: u8 = 16;

/// An address of the world behind the router: `index` is less than [`SERVERS`].
#[must_use]
pub const fn server_v4(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, 1 + index)
}

/// An address of the world behind the router: `index` is less than [`SERVERS`].
#[must_use]
pub const fn server_v6(index: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, 1 + index as u16)
}

/// Addresses of the world that nobody holds, so that no stack interferes: behind the router, and on the uplink's
/// own network, in both families.
pub const SILENT: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 200)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, 0xc8)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0xc8)),
];

/// First and last port under which the world sees guests (N-5).
pub const NAT_PORTS: std::ops::RangeInclusive<u16> = 16_384..=29_999;

/// The two namespaces.
#[derive(Debug)]
pub struct World {
    /// Where the agent runs.
    pub host: NetNs,
    /// Everything else.
    pub outside: NetNs,
}

impl World {
    /// Makes both, with addresses, default routes and neighbours, in both families.
    #[must_use]
    pub fn new() -> Self {
        let world = Self {
            host: NetNs::new(),
            outside: NetNs::new(),
        };
        let (host, outside) = (&world.host, &world.outside);
        // No router discovery or autoconfiguration: every frame on the wire is the test's.
        for netns in [host, outside] {
            netns.sysctl("net/ipv6/conf/default/accept_ra", "0");
            netns.sysctl("net/ipv6/conf/default/router_solicitations", "0");
        }
        join_by_veth((host, UPLINK), (outside, FAR_END));
        let mut lines = vec![format!("address add {ROUTER_V4}/24 dev {FAR_END}")];
        for index in 0..SERVERS {
            let (v4, v6) = (server_v4(index), server_v6(index));
            lines.push(format!("address add {v4}/32 dev lo"));
            lines.push(format!("address add {v6}/128 dev lo nodad"));
        }
        // Linux answers for an IPv6 address that it has no route to, forwarding or not.
        lines.push("route add blackhole 2001:db8:200::/64".to_owned());
        outside.ip_all(&lines);
        host.ip_all(&[
            format!("address add {HOST_V4}/24 dev {UPLINK}"),
            format!("route add default via {ROUTER_V4}"),
        ]);
        world.add_v6();
        world
    }

    /// Gives uplink and far end their IPv6 addresses, the route and the neighbours: the kernel takes them away where
    /// an MTU is too small for IPv6.
    pub fn add_v6(&self) {
        let (host, outside) = (&self.host, &self.outside);
        host.ip_all(&[
            format!("address add {HOST_V6}/64 dev {UPLINK} nodad"),
            format!("route add default via {ROUTER_V6}"),
        ]);
        outside.ip(&format!("address add {ROUTER_V6}/64 dev {FAR_END} nodad"));
        self.fix_neighbours();
    }

    /// Makes the neighbours of the uplink permanent, so that no resolution falls between the frames of a test.
    fn fix_neighbours(&self) {
        let (host_mac, router_mac) = (link_layer(self.uplink_mac()), link_layer(self.router_mac()));
        let on_link = [ROUTER_V4.into(), ROUTER_V6.into(), SILENT[2], SILENT[3]];
        let neighbour = |address: IpAddr, mac: &str, device: &str| {
            format!("neighbour replace {address} lladdr {mac} dev {device} nud permanent")
        };
        let routers = on_link.map(|router| neighbour(router, &router_mac, UPLINK));
        self.host.ip_all(&routers);
        let hosts = [HOST_V4.into(), HOST_V6.into()];
        let hosts = hosts.map(|host| neighbour(host, &host_mac, FAR_END));
        self.outside.ip_all(&hosts);
    }

    /// Starts an agent on the host.
    #[must_use]
    pub fn agent(&self, configuration: &str) -> Agent {
        Agent::start(&self.host, UPLINK, configuration)
    }

    /// Listens at the far end of the uplink.
    #[must_use]
    pub fn wire(&self) -> Raw {
        Raw::open(&self.outside, FAR_END)
    }

    /// Hardware address of the uplink.
    #[must_use]
    pub fn uplink_mac(&self) -> [u8; 6] {
        self.host.mac(UPLINK)
    }

    /// Hardware address of the router.
    #[must_use]
    pub fn router_mac(&self) -> [u8; 6] {
        self.outside.mac(FAR_END)
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// The uplink's address of one family.
#[must_use]
pub fn host_address(is_v4: bool) -> IpAddr {
    if is_v4 {
        HOST_V4.into()
    } else {
        HOST_V6.into()
    }
}

/// A hardware address as `ip` takes it.
#[must_use]
pub fn link_layer(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
