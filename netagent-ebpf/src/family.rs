//! The two address families behind one trait: everything else is written once.

use netagent_common::checksum;
use netagent_common::drop::DropReason;
use netagent_common::net::{ETHERNET_LEN, protocol};
use netagent_common::vm::{INTERFACES_MAX, Interface};

use crate::kernel::Skb;
use crate::maps::FamilyMaps;
use crate::parse::Header;

/// An address family, named by its address.
pub trait Family: FamilyMaps {
    /// Length of the IP header without options, bytes.
    const HEADER_LEN: u32;
    /// Protocol number of its ICMP.
    const ICMP: u8;
    /// ICMP type of an echo request.
    const ECHO_REQUEST: u8;
    /// ICMP type of an echo reply.
    const ECHO_REPLY: u8;
    /// Whether the address of a packet is part of its ICMP checksum.
    const ICMP_HAS_PSEUDO_HEADER: bool;
    /// No address.
    const ZERO: Self;

    /// Whether an ICMP type is an error message.
    fn is_error(icmp_type: u8) -> bool;
    /// The IP header.
    ///
    /// # Errors
    /// The reason why it is refused.
    fn header(skb: Skb) -> Result<Header<Self>, DropReason>;
    /// The destination, of a header that need not be one that is understood.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] where the frame ends before it.
    fn destination(skb: Skb) -> Result<Self, DropReason>;
    /// Whether the instance may send from this address.
    fn is_own(interface: &Interface, address: Self) -> bool;
    /// The guest's own address on this interface.
    fn guest(interface: &Interface) -> Self;
    /// The gateway's address on this interface.
    fn gateway(interface: &Interface) -> Self;
    /// What replacing one address by another does to a checksum.
    fn difference(old: Self, new: Self) -> u32;
    /// Replaces the source address and lowers the hop limit, header checksum included.
    ///
    /// # Errors
    /// [`DropReason::HelperFailed`].
    fn rewrite_source(
        skb: Skb,
        header: &Header<Self>,
        source: Self,
        difference: u32,
    ) -> Result<(), DropReason>;
    /// Replaces the destination address and lowers the hop limit, header checksum included.
    ///
    /// # Errors
    /// [`DropReason::HelperFailed`].
    fn rewrite_destination(
        skb: Skb,
        header: &Header<Self>,
        destination: Self,
    ) -> Result<(), DropReason>;
    /// Swaps the addresses and sets the hop limit to 64, header checksum included.
    ///
    /// # Errors
    /// [`DropReason::HelperFailed`].
    fn turn_round(skb: Skb, header: &Header<Self>) -> Result<(), DropReason>;
    /// Sends the packet to a neighbour.
    fn redirect(ifindex: u32, next_hop: Self, skb: Skb) -> i32;
    /// Source, destination and ports of a header that lies somewhere in the packet: in an ICMP error, or
    /// behind a fragment header.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] where it does not fit.
    fn quoted(skb: Skb) -> Result<Quoted<Self>, DropReason>;
}

/// A packet that an ICMP error quotes.
#[derive(Clone, Copy)]
pub struct Quoted<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Protocol number.
    pub protocol: u8,
    /// The eight bytes behind the IP header.
    pub transport: [[u8; 2]; 4],
}

const V4_SOURCE: u32 = ETHERNET_LEN + 12;
const V4_CHECKSUM: u32 = ETHERNET_LEN + 10;
/// Where the hop limit of an answer starts.
const HOP_LIMIT: u8 = 64;

impl Family for [u8; 4] {
    const HEADER_LEN: u32 = 20;
    const ICMP: u8 = protocol::ICMP;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const ICMP_HAS_PSEUDO_HEADER: bool = false;
    const ZERO: Self = [0; 4];

    /// Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792).
    #[inline(always)]
    fn is_error(icmp_type: u8) -> bool {
        matches!(icmp_type, 3 | 4 | 5 | 11 | 12)
    }

    #[inline(always)]
    fn header(skb: Skb) -> Result<Header<Self>, DropReason> {
        const FRAGMENT_OFFSET: u16 = 0x1fff;
        const MORE_FRAGMENTS: u16 = 0x2000;
        let ip = skb.window::<20>(ETHERNET_LEN)?;
        match ip.byte::<0>() {
            0x45 => {}
            0x46..=0x4f if ip.byte::<9>() == protocol::IGMP => {
                return Err(DropReason::MulticastReport);
            }
            0x46..=0x4f => return Err(DropReason::IpOptions),
            _ => return Err(DropReason::Malformed),
        }
        let total = u32::from(u16::from_be_bytes(ip.two::<2>()));
        if total < Self::HEADER_LEN + 8 || total > skb.len() - ETHERNET_LEN {
            return Err(DropReason::Malformed);
        }
        let words = [
            ip.four::<0>(),
            ip.four::<4>(),
            ip.four::<8>(),
            ip.four::<12>(),
            ip.four::<16>(),
        ];
        let mut sum = 0;
        for word in words {
            sum += u64::from(u32::from_ne_bytes(word));
        }
        if checksum::fold_wide(sum) != 0xffff {
            return Err(DropReason::BadChecksum);
        }
        let fragment = u16::from_be_bytes(ip.two::<6>());
        if fragment & FRAGMENT_OFFSET != 0 {
            return Err(DropReason::Fragment);
        }
        Ok(Header {
            source: ip.four::<12>(),
            destination: ip.four::<16>(),
            protocol: ip.byte::<9>(),
            hop_limit: ip.byte::<8>(),
            first_fragment: fragment & MORE_FRAGMENTS != 0,
            payload_len: total - Self::HEADER_LEN,
        })
    }

    #[inline(always)]
    fn destination(skb: Skb) -> Result<Self, DropReason> {
        Ok(skb.window::<4>(ETHERNET_LEN + 16)?.four::<0>())
    }

    #[inline(always)]
    fn is_own(interface: &Interface, address: Self) -> bool {
        let [first, others @ ..] = interface.addresses_v4;
        if address == first {
            return true;
        }
        address != Self::ZERO && others.contains(&address)
    }

    #[inline(always)]
    fn guest(interface: &Interface) -> Self {
        let [first, ..] = interface.addresses_v4;
        first
    }

    #[inline(always)]
    fn gateway(interface: &Interface) -> Self {
        interface.gateway_v4
    }

    #[inline(always)]
    fn difference(old: Self, new: Self) -> u32 {
        checksum::difference(&old, &new)
    }

    #[inline(always)]
    fn rewrite_source(
        skb: Skb,
        header: &Header<Self>,
        source: Self,
        difference: u32,
    ) -> Result<(), DropReason> {
        skb.window::<4>(V4_SOURCE)?.set_four::<0>(source);
        lower_ttl(skb, header, difference)
    }

    #[inline(always)]
    fn rewrite_destination(
        skb: Skb,
        header: &Header<Self>,
        destination: Self,
    ) -> Result<(), DropReason> {
        skb.window::<8>(V4_SOURCE)?.set_four::<4>(destination);
        lower_ttl(
            skb,
            header,
            Self::difference(header.destination, destination),
        )
    }

    #[inline(always)]
    fn turn_round(skb: Skb, header: &Header<Self>) -> Result<(), DropReason> {
        let ip = skb.window::<20>(ETHERNET_LEN)?;
        ip.set_four::<12>(header.destination);
        ip.set_four::<16>(header.source);
        ip.set_byte::<8>(HOP_LIMIT);
        skb.correct_l3_checksum(V4_CHECKSUM, ttl_difference(header.hop_limit, HOP_LIMIT))
    }

    #[inline(always)]
    fn redirect(ifindex: u32, next_hop: Self, skb: Skb) -> i32 {
        skb.redirect_neighbour_v4(ifindex, next_hop)
    }

    #[inline(always)]
    fn quoted(skb: Skb) -> Result<Quoted<Self>, DropReason> {
        let inner = skb.window::<28>(ETHERNET_LEN + Self::HEADER_LEN + 8)?;
        if inner.byte::<0>() != 0x45 {
            return Err(DropReason::Malformed);
        }
        Ok(Quoted {
            source: inner.four::<12>(),
            destination: inner.four::<16>(),
            protocol: inner.byte::<9>(),
            transport: [
                inner.two::<20>(),
                inner.two::<22>(),
                inner.two::<24>(),
                inner.two::<26>(),
            ],
        })
    }
}

/// The word of TTL and protocol changes with the TTL alone.
#[inline(always)]
fn ttl_difference(old: u8, new: u8) -> u32 {
    checksum::difference(&[old, 0, 0, 0], &[new, 0, 0, 0])
}

#[inline(always)]
fn lower_ttl(
    skb: Skb,
    header: &Header<[u8; 4]>,
    address_difference: u32,
) -> Result<(), DropReason> {
    let lower = header.hop_limit.wrapping_sub(1);
    skb.window::<4>(ETHERNET_LEN + 8)?.set_byte::<0>(lower);
    let difference = checksum::add(address_difference, ttl_difference(header.hop_limit, lower));
    skb.correct_l3_checksum(V4_CHECKSUM, difference)
}

const V6_NEXT_HEADER: u32 = ETHERNET_LEN + 6;

impl Family for [u8; 16] {
    const HEADER_LEN: u32 = 40;
    const ICMP: u8 = protocol::ICMPV6;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const ICMP_HAS_PSEUDO_HEADER: bool = true;
    const ZERO: Self = [0; 16];

    /// Types below 128 (RFC 4443, section 2.1).
    #[inline(always)]
    fn is_error(icmp_type: u8) -> bool {
        icmp_type < 128
    }

    #[inline(always)]
    fn header(skb: Skb) -> Result<Header<Self>, DropReason> {
        let ip = skb.window::<40>(ETHERNET_LEN)?;
        if ip.byte::<0>() >> 4 != 6 {
            return Err(DropReason::Malformed);
        }
        let payload_len = u32::from(u16::from_be_bytes(ip.two::<4>()));
        if payload_len < 8 || payload_len + Self::HEADER_LEN > skb.len() - ETHERNET_LEN {
            return Err(DropReason::Malformed);
        }
        match ip.byte::<6>() {
            // Hop-by-hop, routing, ESP, AH, destination options, mobility, HIP, shim6 (IANA).
            0 if is_multicast_report(skb) => return Err(DropReason::MulticastReport),
            0 | 43 | 50 | 51 | 60 | 135 | 139 | 140 => return Err(DropReason::IpOptions),
            44 => return Err(DropReason::Fragment),
            _ => {}
        }
        Ok(Header {
            source: ip.sixteen::<8>(),
            destination: ip.sixteen::<24>(),
            protocol: ip.byte::<6>(),
            hop_limit: ip.byte::<7>(),
            first_fragment: false,
            payload_len,
        })
    }

    #[inline(always)]
    fn destination(skb: Skb) -> Result<Self, DropReason> {
        Ok(skb.window::<16>(ETHERNET_LEN + 24)?.sixteen::<0>())
    }

    #[inline(always)]
    fn is_own(interface: &Interface, address: Self) -> bool {
        let [a, b, c, d, e, f, g, h, ..] = address;
        let network = [a, b, c, d, e, f, g, h];
        let [first, others @ ..] = interface.networks_v6;
        interface.has_v6 != 0
            && (network == first || (network != [0; 8] && others.contains(&network)))
    }

    #[inline(always)]
    fn guest(interface: &Interface) -> Self {
        interface.guest_v6
    }

    #[inline(always)]
    fn gateway(interface: &Interface) -> Self {
        interface.gateway_v6
    }

    #[inline(always)]
    fn difference(old: Self, new: Self) -> u32 {
        checksum::difference(&old, &new)
    }

    #[inline(always)]
    fn rewrite_source(
        skb: Skb,
        header: &Header<Self>,
        source: Self,
        _difference: u32,
    ) -> Result<(), DropReason> {
        let mut bytes = [0; 18];
        set_start(
            &mut bytes,
            header.protocol,
            header.hop_limit.wrapping_sub(1),
        );
        if let Some(address) = bytes.last_chunk_mut() {
            *address = source;
        }
        skb.store(V6_NEXT_HEADER, &bytes)
    }

    #[inline(always)]
    fn rewrite_destination(
        skb: Skb,
        header: &Header<Self>,
        destination: Self,
    ) -> Result<(), DropReason> {
        let lower = header.hop_limit.wrapping_sub(1);
        store_addresses(skb, (header.protocol, lower), header.source, destination)
    }

    #[inline(always)]
    fn turn_round(skb: Skb, header: &Header<Self>) -> Result<(), DropReason> {
        store_addresses(
            skb,
            (header.protocol, HOP_LIMIT),
            header.destination,
            header.source,
        )
    }

    #[inline(always)]
    fn redirect(ifindex: u32, next_hop: Self, skb: Skb) -> i32 {
        skb.redirect_neighbour_v6(ifindex, next_hop)
    }

    #[inline(always)]
    fn quoted(skb: Skb) -> Result<Quoted<Self>, DropReason> {
        let inner = skb.window::<48>(ETHERNET_LEN + Self::HEADER_LEN + 8)?;
        if inner.byte::<0>() >> 4 != 6 {
            return Err(DropReason::Malformed);
        }
        Ok(Quoted {
            source: inner.sixteen::<8>(),
            destination: inner.sixteen::<24>(),
            protocol: inner.byte::<6>(),
            transport: [
                inner.two::<40>(),
                inner.two::<42>(),
                inner.two::<44>(),
                inner.two::<46>(),
            ],
        })
    }
}

/// MLD behind a hop-by-hop header of eight bytes (RFC 3810, section 5): query, report, done, report version 2.
#[inline(always)]
fn is_multicast_report(skb: Skb) -> bool {
    let Ok(behind) = skb.window::<9>(ETHERNET_LEN + <[u8; 16]>::HEADER_LEN) else {
        return false;
    };
    behind.two::<0>() == [protocol::ICMPV6, 0] && matches!(behind.byte::<8>(), 130..=132 | 143)
}

#[inline(always)]
fn set_start(bytes: &mut [u8], next_header: u8, hop_limit: u8) {
    if let [first, second, ..] = bytes {
        *first = next_header;
        *second = hop_limit;
    }
}

/// Everything from the next-header byte on in one write, from an even offset: there is no header checksum that
/// would make up for the change, so the helper keeps the device's checksum of the packet right.
#[inline(always)]
fn store_addresses(
    skb: Skb,
    (next_header, hop_limit): (u8, u8),
    source: [u8; 16],
    destination: [u8; 16],
) -> Result<(), DropReason> {
    let mut bytes = [0; 34];
    set_start(&mut bytes, next_header, hop_limit);
    if let Some((_, addresses)) = bytes.split_first_chunk_mut::<2>()
        && let Some((first, second)) = addresses.split_first_chunk_mut::<16>()
        && let Some(second) = second.first_chunk_mut::<16>()
    {
        *first = source;
        *second = destination;
    }
    skb.store(V6_NEXT_HEADER, &bytes)
}

const _: () = assert!(INTERFACES_MAX == 4, "`is_own` compares four addresses");
