//! IPv4 (RFC 791).

use netagent_common::checksum;
use netagent_common::drop::DropReason;
use netagent_common::net::{ETHERNET_LEN, protocol};
use netagent_common::vm::Interface;

use crate::family::{Family, HOP_LIMIT, Quoted};
use crate::kernel::Skb;
use crate::parse::Header;

const V4_SOURCE: u32 = ETHERNET_LEN + 12;
const V4_CHECKSUM: u32 = ETHERNET_LEN + 10;

impl Family for [u8; 4] {
    const HEADER_LEN: u32 = 20;
    const ICMP: u8 = protocol::ICMP;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const ICMP_HAS_PSEUDO_HEADER: bool = false;
    const ZERO: Self = [0; 4];

    #[inline(always)]
    fn from_sixteen([a, b, c, d, ..]: [u8; 16]) -> Self {
        [a, b, c, d]
    }

    #[inline(always)]
    fn to_sixteen(self) -> [u8; 16] {
        let [a, b, c, d] = self;
        [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    /// 127.0.0.0/8, RFC 1122 section 3.2.1.3.
    #[inline(always)]
    fn is_loopback([first, ..]: Self) -> bool {
        first == 127
    }

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
        let [first, second, third, fourth] = interface.addresses_v4;
        let count = interface.addresses;
        (address == first && count > 0)
            || (address == second && count > 1)
            || (address == third && count > 2)
            || (address == fourth && count > 3)
    }

    #[inline(always)]
    fn guest(interface: &Interface) -> Option<Self> {
        let [first, ..] = interface.addresses_v4;
        (interface.addresses > 0).then_some(first)
    }

    #[inline(always)]
    fn is_gateway(interface: &Interface, address: Self) -> bool {
        address != Self::ZERO
            && (address == interface.gateway_v4 || address == interface.instance_gateway_v4)
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
    fn rewrite_addresses(
        skb: Skb,
        _header: &Header<Self>,
        (source, destination): (Self, Self),
        difference: u32,
    ) -> Result<(), DropReason> {
        let addresses = skb.window::<8>(V4_SOURCE)?;
        addresses.set_four::<0>(source);
        addresses.set_four::<4>(destination);
        skb.correct_l3_checksum(V4_CHECKSUM, difference)
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
    let difference = checksum::add(address_difference, ttl_difference(header.hop_limit, lower));
    let rest = skb.window::<4>(ETHERNET_LEN + 8)?;
    rest.set_byte::<0>(lower);
    // Written as the helper would, which costs more: no checksum that the kernel keeps beside the packet changes by a
    // header whose own sum stays 0.
    let checksum = checksum::replace(u16::from_ne_bytes(rest.two::<2>()), difference);
    rest.set_two::<2>(checksum.to_ne_bytes());
    Ok(())
}
