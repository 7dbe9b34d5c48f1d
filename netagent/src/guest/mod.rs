//! What a guest is told of its network: one description, from which DHCP answers, router advertisements and the
//! printed formats are made. Everything here is pure.

pub mod dhcp;
pub mod router_advert;

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

pub mod format;

mod cloud_init;
mod cmdline;
mod firecracker;
mod forwarding;
mod json;
mod qemu;

/// What one guest is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestConfig {
    /// Name of the instance, which is the guest's host name.
    pub hostname: String,
    /// In the order of the request: `eth0`, `eth1`, ... in the guest.
    pub interfaces: Vec<GuestInterface>,
}

/// What it is told of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestInterface {
    /// Place in the list: the guest calls it `eth<index>`.
    pub index: usize,
    /// Name of the TAP on the host.
    pub tap_name: String,
    /// MAC address.
    pub mac: [u8; 6],
    /// Model of the device.
    pub model: String,
    /// Queues of the TAP.
    pub queues: u16,
    /// MTU, bytes.
    pub mtu: u32,
    /// Whether the guest configures it by itself (I-17).
    pub autoconfig: bool,
    /// Its address with the prefix of its network.
    pub address: Ipv4Net,
    /// The host's end: the DHCP server's address, which also answers DNS. It may lie outside `address`.
    pub host: Ipv4Addr,
    /// The default route, on the one interface that has it (I-15).
    pub route: Option<DefaultRoute>,
    /// IPv4 addresses of name servers to be told.
    pub nameservers: Vec<Ipv4Addr>,
    /// IPv6, where the interface has it.
    pub v6: Option<GuestV6>,
    /// Whether others have it as their relay, so that the guest must forward.
    pub relay: bool,
}

/// The default route of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Its gateway.
    pub gateway: Ipv4Addr,
    /// Whether the gateway lies outside the interface's network, so that it must be marked on-link.
    pub on_link: bool,
}

/// IPv6 of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestV6 {
    /// Its address with the prefix of its network.
    pub address: Ipv6Net,
    /// Whether all of the network is the guest's, so that it may make addresses of its own (SLAAC): those of the
    /// pool. The user's own `ip6` is that one address.
    pub whole_network: bool,
    /// Gateway of the default route, always `fe80::1`; `None` where another interface has the route, or the
    /// host has none.
    pub gateway: Option<Ipv6Addr>,
    /// IPv6 addresses of name servers to be told.
    pub nameservers: Vec<Ipv6Addr>,
}

impl GuestInterface {
    /// What the guest calls it.
    #[must_use]
    pub fn device(&self) -> String {
        format!("eth{}", self.index)
    }
}
