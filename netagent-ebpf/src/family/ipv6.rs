//! IPv6 (RFC 8200).

use netagent_common::checksum;
use netagent_common::drop::DropReason;
use netagent_common::net::{ETHERNET_LEN, protocol};
use netagent_common::vm::{EXACT_ADDRESS, Interface, WHOLE_NETWORK};

use crate::family::{Family, HOP_LIMIT, Quoted};
use crate::kernel::Skb;
use crate::parse::Header;

const V6_NEXT_HEADER: u32 = ETHERNET_LEN + 6;

impl Family for [u8; 16] {
    const HEADER_LEN: u32 = 40;
    const ICMP: u8 = protocol::ICMPV6;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const ICMP_HAS_PSEUDO_HEADER: bool = true;
    const ZERO: Self = [0; 16];

    #[inline(always)]
    fn from_sixteen(bytes: [u8; 16]) -> Self {
        bytes
    }

    #[inline(always)]
    fn to_sixteen(self) -> [u8; 16] {
        self
    }

    /// `::1`, RFC 4291 section 2.5.3.
    #[inline(always)]
    fn is_loopback(address: Self) -> bool {
        halves(&address) == (0, 1_u64.to_be())
    }

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
        let [first, second, third, fourth] = &interface.addresses_v6;
        let [of_first, of_second, of_third, of_fourth] = interface.prefixes_v6;
        interface.has_v6 != 0
            && (covers(first, of_first, &address)
                || covers(second, of_second, &address)
                || covers(third, of_third, &address)
                || covers(fourth, of_fourth, &address))
    }

    #[inline(always)]
    fn guest(interface: &Interface) -> Option<Self> {
        let [first, ..] = interface.addresses_v6;
        (interface.has_v6 != 0).then_some(first)
    }

    #[inline(always)]
    fn is_gateway(interface: &Interface, address: Self) -> bool {
        interface.has_v6 != 0 && address == interface.gateway_v6
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
    fn rewrite_addresses(
        skb: Skb,
        header: &Header<Self>,
        (source, destination): (Self, Self),
        _difference: u32,
    ) -> Result<(), DropReason> {
        let start = (header.protocol, header.hop_limit);
        store_addresses(skb, start, source, destination)
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

/// Which of the instance's entries an address belongs to.
#[inline(always)]
pub fn place_of(interface: &Interface, address: &[u8; 16]) -> Option<u8> {
    let [first, second, third, fourth] = &interface.addresses_v6;
    let [of_first, of_second, of_third, of_fourth] = interface.prefixes_v6;
    if interface.has_v6 == 0 {
        None
    } else if covers(first, of_first, address) {
        Some(0)
    } else if covers(second, of_second, address) {
        Some(1)
    } else if covers(third, of_third, address) {
        Some(2)
    } else if covers(fourth, of_fourth, address) {
        Some(3)
    } else {
        None
    }
}

/// Whether an address is the own one, or in its network where all of that is the guest's. No other prefix
/// covers anything, so an empty entry does not stand for `::`.
///
/// Differences instead of comparisons: of these the compiler makes a loop over bytes.
#[inline(always)]
fn covers(own: &[u8; 16], prefix: u8, address: &[u8; 16]) -> bool {
    let ((own_network, own_host), (network, host)) = (halves(own), halves(address));
    let (network, host) = (network ^ own_network, host ^ own_host);
    match prefix {
        WHOLE_NETWORK => network == 0,
        EXACT_ADDRESS => network | host == 0,
        _ => false,
    }
}

#[inline(always)]
fn halves(address: &[u8; 16]) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    (
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
    )
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
