//! Anti-spoofing (P-8): a guest sends from its own addresses, and nothing that routers or servers send.

use netagent_common::drop::DropReason;
use netagent_common::net::protocol;
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::{Checksum, PartialChecksum, Skb};
use crate::maps;
use crate::parse::{self, Header, Kind, Transport};

/// Why a packet from an address that is not the guest's own is dropped: DHCPv6 and others go from a link-local
/// address to a multicast one.
#[inline(always)]
pub fn foreign_v6(header: &Header<[u8; 16]>) -> DropReason {
    let [first, ..] = header.destination;
    if is_link_local(header.source) && first == 0xff {
        return DropReason::AlwaysDenied;
    }
    DropReason::SpoofedAddress
}

/// Whether the guest plays a DHCP server: only servers send from these ports.
///
/// # Errors
/// [`DropReason::RogueDhcp`].
#[inline(always)]
pub fn check_dhcp<A: Family>(datagram: &Transport) -> Result<(), DropReason> {
    const SERVER_V4: u16 = 67;
    const SERVER_V6: u16 = 547;
    let server = if A::ICMP == protocol::ICMPV6 {
        SERVER_V6
    } else {
        SERVER_V4
    };
    if u16::from_be_bytes(datagram.source) == server {
        return Err(DropReason::RogueDhcp);
    }
    Ok(())
}

/// Whether a checksum that is still to be computed is the transport header's own. Any other would be written
/// over what was judged, after it was judged: the source address, for one.
///
/// # Errors
/// [`DropReason::PartialChecksum`].
#[inline(always)]
pub fn check_partial_checksum<A: Family>(
    skb: Skb,
    field_offset: u32,
) -> Result<Checksum, DropReason> {
    let Some(layout) = maps::skb_layout() else {
        return Ok(Checksum::Unknown);
    };
    let checksum = skb.checksum(layout);
    if !matches!(checksum, Checksum::Partial) {
        return Ok(checksum);
    }
    let own = PartialChecksum {
        start: A::HEADER_LEN as u16,
        offset: field_offset as u16,
    };
    if skb.partial_checksum(layout) == own.packed() {
        Ok(checksum)
    } else {
        Err(DropReason::PartialChecksum)
    }
}

/// Whether the checksum stands in the packet already.
///
/// # Errors
/// [`DropReason::PartialChecksum`].
#[inline(always)]
pub fn check_no_partial_checksum(skb: Skb) -> Result<(), DropReason> {
    match maps::skb_layout().map(|layout| skb.checksum(layout)) {
        Some(Checksum::Partial) => Err(DropReason::PartialChecksum),
        Some(Checksum::Full | Checksum::Unknown) | None => Ok(()),
    }
}

/// Whether a source address that is not the guest's own may stand in this packet: a link-local address in an
/// echo request to the gateway.
#[inline(always)]
pub fn is_link_local_echo(skb: Skb, interface: &Interface, header: &Header<[u8; 16]>) -> bool {
    is_link_local_to_gateway(interface, header)
        && header.protocol == protocol::ICMPV6
        && parse::icmp::<[u8; 16]>(skb).is_ok_and(|echo| echo.kind == Kind::EchoRequest)
}

/// Whether a packet goes from a link-local address that may be the guest's to its gateway.
#[inline(always)]
pub fn is_link_local_to_gateway(interface: &Interface, header: &Header<[u8; 16]>) -> bool {
    interface.has_v6 != 0
        && is_link_local(header.source)
        && header.source != interface.gateway_v6
        && header.destination == interface.gateway_v6
}

/// fe80::/10, RFC 4291 section 2.5.6.
#[inline(always)]
#[must_use]
pub const fn is_link_local(address: [u8; 16]) -> bool {
    let [first, second, ..] = address;
    first == 0xfe && second & 0xc0 == 0x80
}
