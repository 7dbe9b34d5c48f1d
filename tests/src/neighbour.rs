//! ARP, neighbour discovery, router and DHCP messages, as a guest sends and gets them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::net::ethertype;

use crate::packet::{self, Ends};

/// An address pair of ARP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Address.
    pub ip: Ipv4Addr,
}

/// All ones.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// An ARP packet: 1 asks, 2 answers.
#[must_use]
pub fn arp(
    operation: u16,
    (src_mac, dst_mac): ([u8; 6], [u8; 6]),
    sender: Claim,
    target: Claim,
) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(operation.to_be_bytes());
    for claim in [sender, target] {
        body.extend(claim.mac);
        body.extend(claim.ip.octets());
    }
    packet::ethernet(dst_mac, src_mac, ethertype::ARP, &body)
}

/// A question for the hardware address of `asked`.
#[must_use]
pub fn arp_request(sender: Claim, asked: Ipv4Addr) -> Vec<u8> {
    arp(
        1,
        (sender.mac, BROADCAST),
        sender,
        Claim {
            mac: [0; 6],
            ip: asked,
        },
    )
}

/// Sender and target of an ARP answer.
#[must_use]
pub fn parse_arp_reply(bytes: &[u8]) -> Option<(Claim, Claim)> {
    let is_reply =
        bytes.get(12..14)? == ethertype::ARP.to_be_bytes() && bytes.get(20..22)? == [0, 2];
    let claim = |at: usize| {
        let mac = <[u8; 6]>::try_from(bytes.get(at..at + 6)?).ok()?;
        let ip = <[u8; 4]>::try_from(bytes.get(at + 6..at + 10)?).ok()?;
        Some(Claim { mac, ip: ip.into() })
    };
    is_reply.then_some((claim(22)?, claim(32)?))
}

/// Types of ICMPv6 that a guest and its router exchange (RFC 4861, RFC 3810).
pub mod icmpv6 {
    /// Router solicitation.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation.
    pub const SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const ADVERTISEMENT: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
}

/// The multicast address at which the holder of `address` is asked.
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The hardware address of a multicast address.
#[must_use]
pub fn multicast_mac(address: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = address.octets();
    [0x33, 0x33, a, b, c, d]
}

/// A neighbour solicitation for `asked`, with the sender's hardware address as an option.
#[must_use]
pub fn solicitation(src_mac: [u8; 6], src: Ipv6Addr, asked: Ipv6Addr) -> Vec<u8> {
    let group = solicited_node(asked);
    let ends = Ends {
        src_mac,
        dst_mac: multicast_mac(group),
        src: src.into(),
        dst: group.into(),
        ttl: 255,
    };
    discovery(&ends, icmpv6::SOLICITATION, asked, (1, src_mac))
}

/// A neighbour advertisement that claims `claimed` for `mac`.
#[must_use]
pub fn advertisement(ends: &Ends, claimed: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    discovery(
        &Ends { ttl: 255, ..*ends },
        icmpv6::ADVERTISEMENT,
        claimed,
        (2, mac),
    )
}

fn discovery(ends: &Ends, kind: u8, target: Ipv6Addr, (option, mac): (u8, [u8; 6])) -> Vec<u8> {
    let flags = if kind == icmpv6::ADVERTISEMENT {
        0x60
    } else {
        0
    };
    let mut body = vec![flags, 0, 0, 0];
    body.extend(target.octets());
    body.extend([option, 1]);
    body.extend(mac);
    packet::icmp(ends, (kind, 0), &body)
}

/// Target address and hardware address of a neighbour advertisement.
#[must_use]
pub fn parse_advertisement(bytes: &[u8]) -> Option<(Ipv6Addr, [u8; 6])> {
    if bytes.get(20)? != &58
        || bytes.get(54)? != &icmpv6::ADVERTISEMENT
        || bytes.get(78..80)? != [2, 1]
    {
        return None;
    }
    let target = <[u8; 16]>::try_from(bytes.get(62..78)?).ok()?;
    Some((target.into(), <[u8; 6]>::try_from(bytes.get(80..86)?).ok()?))
}

/// A DHCP server's offer, sent to everyone.
#[must_use]
pub fn dhcp_offer(src_mac: [u8; 6], src: Ipv4Addr) -> Vec<u8> {
    let dst = IpAddr::V4(Ipv4Addr::BROADCAST);
    let ends = Ends {
        src_mac,
        dst_mac: BROADCAST,
        src: src.into(),
        dst,
        ttl: 64,
    };
    let mut body = vec![2, 1, 6, 0];
    body.resize(236, 0);
    body.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 2, 255]);
    packet::udp(&ends, (67, 68), &body)
}

/// A DHCPv6 server's reply.
#[must_use]
pub fn dhcpv6_reply(ends: &Ends) -> Vec<u8> {
    packet::udp(ends, (547, 546), &[7, 0, 0, 1])
}
