//! IPv4 (RFC 791).

use netagent_common::checksum;
use netagent_common::drop::DropReason;
use netagent_common::net::{ETHERNET_LEN, ethertype, protocol};
use netagent_common::vm::Interface;

use crate::family::{End, Family, HOP_LIMIT, LAST_HOP, Quoted};
use crate::fragment::Fragment;
use crate::icmp::{Message, Report};
use crate::kernel::Skb;
use crate::packet::Window;
use crate::parse::Header;
use crate::reset::Reset;

const V4_SOURCE: u32 = ETHERNET_LEN + 12;
const V4_CHECKSUM: u32 = ETHERNET_LEN + 10;
/// Of a packet that an ICMP error quotes.
const QUOTED: u32 = ETHERNET_LEN + 20 + 8;

const FRAGMENT_OFFSET: u16 = 0x1fff;
const MORE_FRAGMENTS: u16 = 0x2000;

impl Family for [u8; 4] {
    const HEADER_LEN: u32 = 20;
    const ICMP: u8 = protocol::ICMP;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const ICMP_HAS_PSEUDO_HEADER: bool = false;
    const FRAGMENT_HEADER_LEN: u32 = 0;
    const FRAGMENTED_MAX: u32 = 0xffff - Self::HEADER_LEN;
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

    #[inline(always)]
    fn last_four(self) -> u32 {
        u32::from_ne_bytes(self)
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
    fn is_report(icmp_type: u8) -> bool {
        matches!(icmp_type, 3 | 11 | 12)
    }

    #[inline(always)]
    fn header(skb: Skb) -> Result<Header<Self>, DropReason> {
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
            // The last fragment may be a short one.
            let fragment = u16::from_be_bytes(ip.two::<6>());
            return Err(if fragment & FRAGMENT_OFFSET == 0 {
                DropReason::Malformed
            } else {
                DropReason::Fragment
            });
        }
        check_sum(ip)?;
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
    fn fragment(skb: Skb) -> Result<Fragment<Self>, DropReason> {
        let ip = skb.window::<20>(ETHERNET_LEN)?;
        let total = u32::from(u16::from_be_bytes(ip.two::<2>()));
        if ip.byte::<0>() != 0x45 || total <= Self::HEADER_LEN || total > skb.len() - ETHERNET_LEN {
            return Err(DropReason::Malformed);
        }
        check_sum(ip)?;
        let fragment = u16::from_be_bytes(ip.two::<6>());
        let [high, low] = ip.two::<4>();
        Ok(Fragment {
            header: Header {
                source: ip.four::<12>(),
                destination: ip.four::<16>(),
                protocol: ip.byte::<9>(),
                hop_limit: ip.byte::<8>(),
                first_fragment: fragment & FRAGMENT_OFFSET == 0,
                payload_len: total - Self::HEADER_LEN,
            },
            protocol: ip.byte::<9>(),
            id: [high, low, 0, 0],
            offset: u32::from(fragment & FRAGMENT_OFFSET) * 8,
            has_more: fragment & MORE_FRAGMENTS != 0,
        })
    }

    #[inline(always)]
    fn destination(skb: Skb) -> Result<Self, DropReason> {
        Ok(skb.window::<4>(ETHERNET_LEN + 16)?.four::<0>())
    }

    #[inline(always)]
    fn source(skb: Skb) -> Result<Self, DropReason> {
        Ok(skb.window::<4>(ETHERNET_LEN + 12)?.four::<0>())
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
    fn is_first(interface: &Interface, address: Self) -> bool {
        let [first, ..] = interface.addresses_v4;
        address == first && interface.addresses > 0
    }

    #[inline(always)]
    fn guest(interface: &Interface) -> Option<Self> {
        let [first, ..] = interface.addresses_v4;
        (interface.addresses > 0).then_some(first)
    }

    #[inline(always)]
    fn is_routed(interface: &Interface, address: Self) -> bool {
        Self::is_own(interface, address)
    }

    #[inline(always)]
    fn is_on_tap(interface: &Interface, address: Self) -> bool {
        address != Self::ZERO && address == interface.gateway_v4
    }

    #[inline(always)]
    fn is_gateway(interface: &Interface, address: Self) -> bool {
        address != Self::ZERO
            && (address == interface.gateway_v4 || address == interface.instance_gateway_v4)
    }

    #[inline(always)]
    fn gateway(interface: &Interface) -> Option<Self> {
        [interface.instance_gateway_v4, interface.gateway_v4]
            .into_iter()
            .find(|gateway| *gateway != Self::ZERO)
    }

    #[inline(always)]
    fn snat(interface: &Interface) -> Self {
        interface.snat_v4
    }

    /// Neither multicast, reserved nor broadcast (RFC 1112, section 4).
    #[inline(always)]
    fn is_unicast([first, ..]: Self) -> bool {
        first < 224
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
    fn end_here(skb: Skb, header: &Header<Self>) -> Result<(), DropReason> {
        skb.window::<20>(ETHERNET_LEN)?.set_byte::<8>(LAST_HOP);
        skb.correct_l3_checksum(V4_CHECKSUM, ttl_difference(header.hop_limit, LAST_HOP))
    }

    #[inline(always)]
    fn redirect(ifindex: u32, next_hop: Self, skb: Skb) -> i32 {
        skb.redirect_neighbour_v4(ifindex, next_hop)
    }

    /// RFC 792, RFC 1191 section 4, RFC 1812 section 4.3.
    #[inline(always)]
    fn report(skb: Skb, report: &Report<Self>) -> Result<(), DropReason> {
        /// The precedence that RFC 1812, section 4.3.2.5 wants.
        const INTERNETWORK_CONTROL: u8 = 0xc0;
        const DONT_FRAGMENT: u8 = 0x40;
        let packet = skb.window::<28>(ETHERNET_LEN)?;
        let quoted = packet.words::<0, 7>();
        let (kind, code, mtu) = match report.message {
            Message::TooBig(_) if packet.byte::<6>() & DONT_FRAGMENT == 0 => {
                return Err(DropReason::TooBig);
            }
            Message::TooBig(mtu) => (3, 4, mtu),
            Message::TimeExceeded => (11, 0, 0),
            Message::Prohibited => (3, 13, 0),
            Message::NoRoute => (3, 0, 0),
        };
        let [high, low] = mtu.to_be_bytes();
        let ip = [
            [0x45, INTERNETWORK_CONTROL, 0, 20 + 8 + 28],
            [0, 0, DONT_FRAGMENT, 0],
            [HOP_LIMIT, protocol::ICMP, 0, 0],
            report.from,
            report.to,
        ]
        .map(u32::from_ne_bytes);
        let message = [[kind, code, 0, 0], [0, 0, high, low]].map(u32::from_ne_bytes);
        let ip_checksum = !checksum::fold_wide(checksum::sum_wide(&ip));
        let sum = checksum::sum_wide(&message) + checksum::sum_wide(&quoted);
        let message_checksum = !checksum::fold_wide(sum);

        let macs = skb.window::<12>(0)?.swapped_macs();
        skb.become_plain(70)?;
        let frame = skb.window::<70>(0)?;
        frame.set_words::<0, 3>(&macs);
        frame.set_two::<12>(ethertype::IPV4.to_be_bytes());
        frame.set_words::<14, 5>(&ip);
        frame.set_two::<24>(ip_checksum.to_ne_bytes());
        frame.set_words::<34, 2>(&message);
        frame.set_two::<36>(message_checksum.to_ne_bytes());
        frame.set_words::<42, 7>(&quoted);
        Ok(())
    }

    #[inline(always)]
    fn reset(skb: Skb, reset: &Reset<Self>) -> Result<(), DropReason> {
        const DONT_FRAGMENT: u8 = 0x40;
        let ip = [
            [0x45, 0, 0, 20 + 20],
            [0, 0, DONT_FRAGMENT, 0],
            [HOP_LIMIT, protocol::TCP, 0, 0],
            reset.from,
            reset.to,
        ]
        .map(u32::from_ne_bytes);
        let segment = reset.segment();
        let pseudo = [reset.from, reset.to, [0, protocol::TCP, 0, 20]].map(u32::from_ne_bytes);
        let ip_checksum = !checksum::fold_wide(checksum::sum_wide(&ip));
        let sum = checksum::sum_wide(&pseudo) + checksum::sum_wide(&segment);
        let frame = skb.window::<54>(0)?;
        frame.set_words::<0, 3>(&reset.macs);
        frame.set_two::<12>(ethertype::IPV4.to_be_bytes());
        frame.set_words::<14, 5>(&ip);
        frame.set_two::<24>(ip_checksum.to_ne_bytes());
        frame.set_words::<34, 5>(&segment);
        frame.set_two::<50>((!checksum::fold_wide(sum)).to_ne_bytes());
        Ok(())
    }

    #[inline(always)]
    fn quoted(skb: Skb, payload_len: u32) -> Result<Quoted<Self>, DropReason> {
        let Ok(inner) = skb.window::<28>(QUOTED) else {
            return Err(DropReason::IcmpError);
        };
        // A later fragment has no ports.
        let fragment = u16::from_be_bytes(inner.two::<6>()) & FRAGMENT_OFFSET;
        if payload_len < 8 + 28 || inner.byte::<0>() != 0x45 || fragment != 0 {
            return Err(DropReason::IcmpError);
        }
        Ok(Quoted {
            source: inner.four::<12>(),
            destination: inner.four::<16>(),
            protocol: inner.byte::<9>(),
            shift: 0,
            transport: [
                inner.two::<20>(),
                inner.two::<22>(),
                inner.two::<24>(),
                inner.two::<26>(),
            ],
        })
    }

    #[inline(always)]
    fn set_quoted(skb: Skb, end: End, address: Self, difference: u32) -> Result<u32, DropReason> {
        let header = skb.window::<20>(QUOTED)?;
        match end {
            End::Source => header.set_four::<12>(address),
            End::Destination => header.set_four::<16>(address),
        }
        let old = header.two::<10>();
        let new = checksum::corrected(old, difference);
        header.set_two::<10>(new);
        Ok(checksum::add(
            difference,
            checksum::word_difference(old, new),
        ))
    }
}

/// Whether a header's own checksum is right.
#[inline(always)]
fn check_sum(ip: Window<20>) -> Result<(), DropReason> {
    if checksum::fold_wide(checksum::sum_wide(&ip.words::<0, 5>())) == 0xffff {
        Ok(())
    } else {
        Err(DropReason::BadChecksum)
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
    rest.set_two::<2>(checksum::corrected(rest.two::<2>(), difference));
    Ok(())
}
