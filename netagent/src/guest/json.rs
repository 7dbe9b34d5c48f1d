//! What the guest sets, as JSON: for scripts and agents inside it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use crate::guest::forwarding::settings;
use crate::guest::{GuestConfig, GuestInterface};

#[derive(Serialize)]
struct Guest<'a> {
    hostname: &'a str,
    interfaces: Vec<Interface>,
    /// What the kernel of a relay must be told.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sysctls: BTreeMap<String, u8>,
}

/// One interface: the members come out in this order.
#[derive(Serialize)]
struct Interface {
    device: String,
    mac: String,
    mtu: u32,
    addresses: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<Ipv4Addr>,
    /// Whether the gateway lies outside the network, so that its route needs `onlink`.
    #[serde(skip_serializing_if = "Option::is_none")]
    on_link: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway6: Option<Ipv6Addr>,
    nameservers: Vec<IpAddr>,
}

/// The interfaces that the guest configures by itself.
pub(crate) fn print(guest: &GuestConfig) -> String {
    let guest = Guest {
        hostname: &guest.hostname,
        interfaces: guest.configured().map(described).collect(),
        sysctls: settings(guest).into_iter().collect(),
    };
    pretty(&guest)
}

/// JSON for people.
pub(super) fn pretty(value: &impl Serialize) -> String {
    // Strings, numbers and lists always have a JSON form.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

fn described(interface: &GuestInterface) -> Interface {
    Interface {
        device: interface.device(),
        mac: interface.mac_text(),
        mtu: interface.mtu,
        addresses: interface.addresses(),
        gateway: interface.route.map(|route| route.gateway),
        on_link: interface.route.map(|route| route.on_link),
        gateway6: interface.v6.as_ref().and_then(|v6| v6.gateway),
        nameservers: interface.nameservers(),
    }
}
