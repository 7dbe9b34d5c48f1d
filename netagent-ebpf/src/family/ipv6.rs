//! IPv6 (RFC 8200).

use netagent_common::checksum;
use netagent_common::drop::DropReason;
use netagent_common::net::{ETHERNET_LEN, ethertype, protocol};
use netagent_common::vm::{EXACT_ADDRESS, Interface, WHOLE_NETWORK};

use crate::family::{End, Family, HOP_LIMIT, LAST_HOP, Quoted};
use crate::fragment::Fragment;
use crate::icmp::{Message, Report};
use crate::kernel::Skb;
use crate::parse::Header;
use crate::reset::Reset;

const V6_NEXT_HEADER: u32 = ETHERNET_LEN + 6;
/// Next header: a fragment.
const FRAGMENT: u8 = 44;
/// Of a packet that an ICMP error quotes.
const QUOTED: u32 = ETHERNET_LEN + 40 + 8;

impl Family for [u8; 16] {
    const HEADER_LEN: u32 = 40;
    const ICMP: u8 = protocol::ICMPV6;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const ICMP_HAS_PSEUDO_HEADER: bool = true;
    const FRAGMENT_HEADER_LEN: u32 = 8;
    const FRAGMENTED_MAX: u32 = 0xffff;
    const ZERO: Self = [0; 16];

    #[inline(always)]
    fn from_sixteen(bytes: [u8; 16]) -> Self {
        bytes
    }

    #[inline(always)]
    fn to_sixteen(self) -> [u8; 16] {
        self
    }

    #[inline(always)]
    fn last_four(self) -> u32 {
        let [.., a, b, c, d] = self;
        u32::from_ne_bytes([a, b, c, d])
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

    /// RFC 4443, sections 3.1 to 3.4.
    #[inline(always)]
    fn is_report(icmp_type: u8) -> bool {
        matches!(icmp_type, 1..=4)
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
            FRAGMENT => return Err(DropReason::Fragment),
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

    /// RFC 8200, section 4.5: the fragment header comes first, since no other is let through.
    #[inline(always)]
    fn fragment(skb: Skb) -> Result<Fragment<Self>, DropReason> {
        let ip = skb.window::<48>(ETHERNET_LEN)?;
        let payload_len = u32::from(u16::from_be_bytes(ip.two::<4>()));
        if ip.byte::<0>() >> 4 != 6
            || ip.byte::<6>() != FRAGMENT
            || payload_len <= Self::FRAGMENT_HEADER_LEN
            || payload_len + Self::HEADER_LEN > skb.len() - ETHERNET_LEN
        {
            return Err(DropReason::Malformed);
        }
        let fragment = u16::from_be_bytes(ip.two::<42>());
        Ok(Fragment {
            header: Header {
                source: ip.sixteen::<8>(),
                destination: ip.sixteen::<24>(),
                protocol: FRAGMENT,
                hop_limit: ip.byte::<7>(),
                first_fragment: fragment & !7 == 0,
                payload_len: payload_len - Self::FRAGMENT_HEADER_LEN,
            },
            protocol: ip.byte::<40>(),
            id: ip.four::<44>(),
            offset: u32::from(fragment & !7),
            has_more: fragment & 1 != 0,
        })
    }

    #[inline(always)]
    fn destination(skb: Skb) -> Result<Self, DropReason> {
        Ok(skb.window::<16>(ETHERNET_LEN + 24)?.sixteen::<0>())
    }

    #[inline(always)]
    fn source(skb: Skb) -> Result<Self, DropReason> {
        Ok(skb.window::<16>(ETHERNET_LEN + 8)?.sixteen::<0>())
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
    fn is_first(interface: &Interface, address: Self) -> bool {
        let [first, ..] = &interface.addresses_v6;
        let [of_first, ..] = interface.prefixes_v6;
        interface.has_v6 != 0 && covers(first, of_first, &address)
    }

    #[inline(always)]
    fn guest(interface: &Interface) -> Option<Self> {
        let [first, ..] = interface.addresses_v6;
        (interface.has_v6 != 0).then_some(first)
    }

    /// Of a network that is the guest's as a whole, to the address alone that the agent gave it.
    #[inline(always)]
    fn is_routed(interface: &Interface, address: Self) -> bool {
        let [first, second, third, fourth] = &interface.addresses_v6;
        covers(first, EXACT_ADDRESS, &address)
            || covers(second, EXACT_ADDRESS, &address)
            || covers(third, EXACT_ADDRESS, &address)
            || covers(fourth, EXACT_ADDRESS, &address)
    }

    #[inline(always)]
    fn is_on_tap(interface: &Interface, address: Self) -> bool {
        Self::is_gateway(interface, address)
    }

    #[inline(always)]
    fn is_gateway(interface: &Interface, address: Self) -> bool {
        interface.has_v6 != 0 && address == interface.gateway_v6
    }

    #[inline(always)]
    fn gateway(interface: &Interface) -> Option<Self> {
        (interface.has_v6 != 0).then_some(interface.gateway_v6)
    }

    #[inline(always)]
    fn snat(interface: &Interface) -> Self {
        interface.snat_v6
    }

    #[inline(always)]
    fn is_unicast([first, ..]: Self) -> bool {
        first != 0xff
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
    fn end_here(skb: Skb, _header: &Header<Self>) -> Result<(), DropReason> {
        skb.window::<8>(ETHERNET_LEN)?.set_byte::<7>(LAST_HOP);
        Ok(())
    }

    #[inline(always)]
    fn redirect(ifindex: u32, next_hop: Self, skb: Skb) -> i32 {
        skb.redirect_neighbour_v6(ifindex, next_hop)
    }

    #[inline(always)]
    fn report(skb: Skb, report: &Report<Self>) -> Result<(), DropReason> {
        let next_header = skb.window::<1>(V6_NEXT_HEADER)?.byte::<0>();
        if next_header == FRAGMENT {
            write_report::<56, 14, 118>(skb, report)
        } else {
            write_report::<48, 12, 110>(skb, report)
        }
    }

    #[inline(always)]
    fn reset(skb: Skb, reset: &Reset<Self>) -> Result<(), DropReason> {
        let head = [[0x60, 0, 0, 0], [0, 20, protocol::TCP, HOP_LIMIT]].map(u32::from_ne_bytes);
        let (from, to): ([u32; 4], [u32; 4]) =
            (bytemuck::cast(reset.from), bytemuck::cast(reset.to));
        let segment = reset.segment();
        let rest = [[0, 0, 0, 20], [0, 0, 0, protocol::TCP]].map(u32::from_ne_bytes);
        let sum = checksum::sum_wide(&from)
            + checksum::sum_wide(&to)
            + checksum::sum_wide(&rest)
            + checksum::sum_wide(&segment);
        let frame = skb.window::<74>(0)?;
        frame.set_words::<0, 3>(&reset.macs);
        frame.set_two::<12>(ethertype::IPV6.to_be_bytes());
        frame.set_words::<14, 2>(&head);
        frame.set_words::<22, 4>(&from);
        frame.set_words::<38, 4>(&to);
        frame.set_words::<54, 5>(&segment);
        frame.set_two::<70>((!checksum::fold_wide(sum)).to_ne_bytes());
        Ok(())
    }

    #[inline(always)]
    fn quoted(skb: Skb, payload_len: u32) -> Result<Quoted<Self>, DropReason> {
        let Ok(inner) = skb.window::<48>(QUOTED) else {
            return Err(DropReason::IcmpError);
        };
        let (mut protocol, mut shift) = (inner.byte::<6>(), 0);
        if protocol == FRAGMENT {
            // A later fragment has no ports.
            if u16::from_be_bytes(inner.two::<42>()) & !7 != 0 {
                return Err(DropReason::IcmpError);
            }
            (protocol, shift) = (inner.byte::<40>(), Self::FRAGMENT_HEADER_LEN);
        }
        let Ok(transport) = skb.window::<8>(QUOTED + Self::HEADER_LEN + shift) else {
            return Err(DropReason::IcmpError);
        };
        if payload_len < 8 + 48 + shift || inner.byte::<0>() >> 4 != 6 {
            return Err(DropReason::IcmpError);
        }
        Ok(Quoted {
            source: inner.sixteen::<8>(),
            destination: inner.sixteen::<24>(),
            protocol,
            shift,
            transport: [
                transport.two::<0>(),
                transport.two::<2>(),
                transport.two::<4>(),
                transport.two::<6>(),
            ],
        })
    }

    #[inline(always)]
    fn set_quoted(skb: Skb, end: End, address: Self, difference: u32) -> Result<u32, DropReason> {
        let header = skb.window::<40>(QUOTED)?;
        match end {
            End::Source => header.set_sixteen::<8>(address),
            End::Destination => header.set_sixteen::<24>(address),
        }
        Ok(difference)
    }
}

/// An error (RFC 4443, sections 3.1 to 3.3) in a frame of `LEN` bytes, quoting so many bytes, which are so many words.
#[inline(always)]
fn write_report<const QUOTED: usize, const WORDS: usize, const LEN: usize>(
    skb: Skb,
    report: &Report<[u8; 16]>,
) -> Result<(), DropReason> {
    const { assert!(QUOTED == 4 * WORDS && LEN == 14 + 40 + 8 + QUOTED) };
    let payload_len = const { 8 + QUOTED as u8 };
    let quoted = skb.window::<QUOTED>(ETHERNET_LEN)?.words::<0, WORDS>();
    let (kind, code, mtu) = match report.message {
        Message::TooBig(mtu) => (2, 0, mtu),
        Message::TimeExceeded => (3, 0, 0),
        Message::Prohibited => (1, 1, 0),
        Message::NoRoute => (1, 0, 0),
    };
    let [high, low] = mtu.to_be_bytes();
    let message = [[kind, code, 0, 0], [0, 0, high, low]].map(u32::from_ne_bytes);
    let pseudo = [0, 0, 0, payload_len, 0, 0, 0, protocol::ICMPV6];
    let sum = u64::from(checksum::sum(&report.from))
        + u64::from(checksum::sum(&report.to))
        + u64::from(checksum::sum(&pseudo))
        + checksum::sum_wide(&message)
        + checksum::sum_wide(&quoted);
    let message_checksum = !checksum::fold_wide(sum);

    let macs = skb.window::<12>(0)?.swapped_macs();
    skb.become_plain(LEN as u32)?;
    let frame = skb.window::<LEN>(0)?;
    frame.set_words::<0, 3>(&macs);
    frame.set_four::<12>([0x86, 0xdd, 0x60, 0]);
    frame.set_four::<16>([0, 0, 0, payload_len]);
    frame.set_two::<20>([protocol::ICMPV6, HOP_LIMIT]);
    frame.set_sixteen::<22>(report.from);
    frame.set_sixteen::<38>(report.to);
    frame.set_words::<54, 2>(&message);
    frame.set_two::<56>(message_checksum.to_ne_bytes());
    frame.set_words::<62, WORDS>(&quoted);
    Ok(())
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
