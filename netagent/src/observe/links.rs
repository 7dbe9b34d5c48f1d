//! Reads links and their addresses.

use std::collections::BTreeMap;

use ipnet::IpNet;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};

use crate::apply::settings;
use crate::netlink::{Netlink, NetlinkError};
use crate::plan::ObservedLink;

/// Every link, by interface index.
///
/// # Errors
/// Where netlink refuses.
pub async fn read(netlink: &Netlink) -> Result<BTreeMap<u32, ObservedLink>, NetlinkError> {
    let mut links = BTreeMap::new();
    for answer in netlink
        .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
        .await?
    {
        if let RouteNetlinkMessage::NewLink(link) = answer {
            links.insert(link.header.index, observed(link));
        }
    }
    for answer in netlink
        .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
        .await?
    {
        let RouteNetlinkMessage::NewAddress(message) = answer else {
            continue;
        };
        if let Some(address) = address(&message)
            && let Some(link) = links.get_mut(&message.header.index)
        {
            link.addresses.insert(address);
        }
    }
    Ok(links)
}

fn observed(message: LinkMessage) -> ObservedLink {
    let flags = message.header.flags;
    let mut link = ObservedLink {
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        ethernet: message.header.link_layer_type == LinkLayerType::Ether
            && !flags.contains(LinkFlags::Loopback),
        ..ObservedLink::default()
    };
    for attribute in message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name = name;
        } else if let LinkAttribute::IfAlias(alias) = attribute {
            link.alias = Some(alias);
        } else if let LinkAttribute::AfSpecUnspec(families) = attribute {
            link.hardened = settings::hold(&families);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = mtu;
        } else if let LinkAttribute::Address(address) = attribute {
            // Tunnels and loopback have none, or one of another length.
            link.mac = address.try_into().unwrap_or_default();
        }
    }
    link
}

/// The host's own end: on a point-to-point link, `Address` is the other one.
fn address(message: &AddressMessage) -> Option<IpNet> {
    let mut found = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(address) = attribute {
            found = Some(*address);
        } else if let AddressAttribute::Address(address) = attribute {
            found = found.or(Some(*address));
        }
    }
    IpNet::new(found?, message.header.prefix_len).ok()
}
