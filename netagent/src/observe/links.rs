//! Reads links and their addresses.

use std::collections::BTreeMap;

use ipnet::IpNet;
use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoTun, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
};

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
    let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    add_addresses(&mut links, netlink.dump(question).await?);
    Ok(links)
}

/// One link, by index or by name. `strict` is a connection that heeds what a dump is limited to.
///
/// # Errors
/// Where netlink refuses.
pub async fn read_one(
    strict: &Netlink,
    link: LinkMessage,
) -> Result<(u32, ObservedLink), NetlinkError> {
    let ifindex = link.header.index;
    let mut links = BTreeMap::from([(ifindex, observed(link))]);
    let mut question = AddressMessage::default();
    question.header.index = ifindex;
    let question = RouteNetlinkMessage::GetAddress(question);
    add_addresses(&mut links, strict.dump(question).await?);
    Ok((ifindex, links.remove(&ifindex).unwrap_or_default()))
}

/// Frames that came from every TAP, by interface index. A TAP counts what its XDP program dropped apart.
///
/// # Errors
/// Where netlink refuses.
pub async fn read_sent(netlink: &Netlink) -> Result<BTreeMap<u32, u64>, NetlinkError> {
    let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let mut sent = BTreeMap::new();
    for answer in netlink.dump(question).await? {
        let RouteNetlinkMessage::NewLink(link) = answer else {
            continue;
        };
        let (mut tap, mut frames) = (false, 0);
        for attribute in &link.attributes {
            if let LinkAttribute::LinkInfo(infos) = attribute {
                tap = is_tap(infos);
            } else if let LinkAttribute::Stats64(counted) = attribute {
                frames = counted.rx_packets.saturating_add(counted.rx_dropped);
            }
        }
        if tap {
            sent.insert(link.header.index, frames);
        }
    }
    Ok(sent)
}

fn add_addresses(links: &mut BTreeMap<u32, ObservedLink>, answers: Vec<RouteNetlinkMessage>) {
    let mut spare = Vec::new();
    for answer in answers {
        let RouteNetlinkMessage::NewAddress(message) = answer else {
            continue;
        };
        if let Some(address) = address(&message)
            && let Some(link) = links.get_mut(&message.header.index)
        {
            link.addresses.insert(address);
            match use_as_source(&message) {
                Source::First => link.sources.push(address),
                Source::Last => spare.push((message.header.index, address)),
                Source::Never => {}
            }
        }
    }
    for (ifindex, address) in spare {
        if let Some(link) = links.get_mut(&ifindex) {
            link.sources.push(address);
        }
    }
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
    link.xdp = xdp_program(&message.attributes);
    let (mut lowest, mut highest) = (0, 0);
    for attribute in message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name = name;
        } else if let LinkAttribute::IfAlias(alias) = attribute {
            link.alias = Some(alias);
        } else if let LinkAttribute::AfSpecUnspec(families) = attribute {
            link.hardened = settings::hold(&families);
        } else if let LinkAttribute::Controller(master) = attribute {
            link.master = Some(master);
        } else if let LinkAttribute::LinkInfo(infos) = &attribute {
            link.tap = is_tap(infos);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = mtu;
        } else if let LinkAttribute::MinMtu(mtu) = attribute {
            lowest = mtu;
        } else if let LinkAttribute::MaxMtu(mtu) = attribute {
            highest = mtu;
        } else if let LinkAttribute::Address(address) = attribute {
            // Tunnels and loopback have none, or one of another length.
            link.mac = address.try_into().unwrap_or_default();
        }
    }
    // A device without upper bound says 0.
    link.mtu_range = (highest > 0).then_some(lowest..=highest);
    link
}

/// Id of the XDP program on a device.
#[must_use]
pub fn xdp_program(attributes: &[LinkAttribute]) -> Option<u32> {
    attributes.iter().find_map(|attribute| {
        let LinkAttribute::Xdp(parts) = attribute else {
            return None;
        };
        parts.iter().find_map(|part| {
            if let LinkXdp::ProgId(id) = part {
                Some(*id)
            } else {
                None
            }
        })
    })
}

/// `IFLA_TUN_TYPE` and its value for a TAP (linux/if_link.h, linux/if_tun.h).
const TUN_TYPE: u16 = 3;
const TYPE_TAP: u8 = 2;

fn is_tap(infos: &[LinkInfo]) -> bool {
    let data = infos.iter().find_map(|info| {
        if let LinkInfo::Data(InfoData::Tun(data)) = info {
            Some(data)
        } else {
            None
        }
    });
    let is_type = |info: &InfoTun| {
        let mut value = [0; 1];
        let fits = info.kind() == TUN_TYPE && info.value_len() == value.len();
        if fits {
            info.emit_value(&mut value);
        }
        fits && value == [TYPE_TAP]
    };
    data.is_some_and(|data| data.iter().any(is_type))
}

/// When the kernel takes an address as the source of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    First,
    /// Where there is no other.
    Last,
    Never,
}

/// Secondary IPv4 addresses stand back, and so do deprecated and temporary ones of IPv6 (RFC 6724 section 5;
/// the kernel has one flag for secondary and temporary). A tentative one may be somebody else's.
fn use_as_source(message: &AddressMessage) -> Source {
    let long = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Flags(flags) = attribute {
            Some(*flags)
        } else {
            None
        }
    });
    let flags = long.unwrap_or(AddressFlags::from_bits_retain(
        message.header.flags.bits().into(),
    ));
    if flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed) {
        Source::Never
    } else if flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated) {
        Source::Last
    } else {
        Source::First
    }
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

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::address::AddressHeaderFlags;

    use super::*;

    fn check(flags: AddressFlags, expected: Source) {
        let mut long = AddressMessage::default();
        long.attributes.push(AddressAttribute::Flags(flags));
        assert_eq!(use_as_source(&long), expected);
        let mut short = AddressMessage::default();
        short.header.flags = AddressHeaderFlags::from_bits_retain(flags.bits() as u8);
        assert_eq!(use_as_source(&short), expected);
    }

    #[test]
    fn a_device_says_which_mtu_it_takes() {
        let range = |attributes: &[LinkAttribute]| {
            let mut message = LinkMessage::default();
            message.attributes = attributes.to_vec();
            observed(message).mtu_range
        };
        let lowest = LinkAttribute::MinMtu(68);
        let tap = [lowest.clone(), LinkAttribute::MaxMtu(65_521)];
        assert_eq!(range(&tap), Some(68..=65_521));
        assert_eq!(range(&[lowest, LinkAttribute::MaxMtu(0)]), None);
        assert_eq!(range(&[]), None);
    }

    #[test]
    fn flags_say_when_an_address_is_a_source() {
        check(AddressFlags::Permanent, Source::First);
        check(AddressFlags::Secondary, Source::Last);
        check(AddressFlags::Deprecated, Source::Last);
        check(AddressFlags::Tentative, Source::Never);
        check(
            AddressFlags::Dadfailed | AddressFlags::Permanent,
            Source::Never,
        );
    }
}
