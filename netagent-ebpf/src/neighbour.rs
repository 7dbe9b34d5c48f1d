//! Neighbour discovery (RFC 4861): questions for the gateway are answered, everything else ends here.

use netagent_common::checksum;
use netagent_common::drop::DropReason;
use netagent_common::net::{ETHERNET_LEN, GATEWAY_MAC, protocol};
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::Skb;
use crate::maps;
use crate::parse::{Header, transport_offset};
use crate::spoof::is_link_local;
use crate::verdict::{Action, Packed};

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Ethernet, IPv6, the advertisement, and its option with the link-layer address.
const REPLY_LEN: usize = 14 + 40 + 24 + 8;

/// The ICMPv6 type, where the packet is one of neighbour discovery.
#[inline(always)]
pub fn kind(skb: Skb, header: &Header<[u8; 16]>) -> Option<u8> {
    if header.protocol != protocol::ICMPV6 {
        return None;
    }
    let kind = skb
        .window::<1>(transport_offset::<[u8; 16]>())
        .ok()?
        .byte::<0>();
    (ROUTER_SOLICITATION..=REDIRECT)
        .contains(&kind)
        .then_some(kind)
}

/// Judges a packet of neighbour discovery, and answers a question for the gateway.
#[inline(never)]
pub fn from_vm(skb: Skb, interface: &Interface, kind: u8) -> Packed {
    Packed::new(judge(skb, interface, kind).map(Some))
}

#[inline(always)]
fn judge(skb: Skb, interface: &Interface, kind: u8) -> Result<Action, DropReason> {
    if interface.has_v6 == 0 {
        return Err(DropReason::SpoofedAddress);
    }
    match kind {
        ROUTER_ADVERTISEMENT | REDIRECT => return Err(DropReason::RogueRouter),
        ROUTER_SOLICITATION => return Err(DropReason::RouterSolicit),
        _ => {}
    }
    let ip = skb.window::<40>(ETHERNET_LEN)?;
    let (hop_limit, source) = (ip.byte::<7>(), ip.sixteen::<8>());
    let message = skb.window::<24>(transport_offset::<[u8; 16]>())?;
    let target = message.sixteen::<8>();
    // RFC 4861, section 7.1: the hop limit proves that the packet crossed no router.
    if hop_limit != 255 || message.byte::<1>() != 0 {
        return Err(DropReason::Malformed);
    }
    let is_probe = source == [0; 16];
    if !(is_probe || is_claimable(interface, source)) {
        return Err(DropReason::SpoofedNeighbour);
    }
    if kind == ADVERTISEMENT {
        let own = is_claimable(interface, target);
        return Err(if own {
            DropReason::NeighbourUnanswered
        } else {
            DropReason::SpoofedNeighbour
        });
    }
    if let Ok(option) = skb.window::<8>(transport_offset::<[u8; 16]>() + 24)
        && option.two::<0>() == [1, 1]
        && !option.is_mac::<2, 6>(interface.guest_mac)
    {
        return Err(DropReason::SpoofedNeighbour);
    }
    if kind != SOLICITATION || target != interface.gateway_v6 {
        return Err(DropReason::NeighbourUnanswered);
    }
    answer(
        skb,
        interface,
        if is_probe { ALL_NODES } else { source },
        is_probe,
    )
}

/// ff02::1, where a node that has no address yet listens.
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Whether the guest may say that it has this address.
#[inline(always)]
fn is_claimable(interface: &Interface, address: [u8; 16]) -> bool {
    let own = <[u8; 16]>::is_own(interface, address);
    own || (is_link_local(address) && address != interface.gateway_v6)
}

#[inline(always)]
fn answer(
    skb: Skb,
    interface: &Interface,
    to: [u8; 16],
    is_probe: bool,
) -> Result<Action, DropReason> {
    const ROUTER_OVERRIDE: u8 = 0xa0;
    const SOLICITED: u8 = 0x40;
    let [m0, m1, m2, m3, m4, m5] = GATEWAY_MAC;
    let flags = [
        if is_probe {
            ROUTER_OVERRIDE
        } else {
            ROUTER_OVERRIDE | SOLICITED
        },
        0,
        0,
        0,
    ];
    let gateway = interface.gateway_v6;
    // Pseudo header, message and option, in words.
    let mut sum = checksum::add(checksum::sum(&gateway), checksum::sum(&to));
    sum = checksum::add(
        sum,
        checksum::sum(&[0, 0, 0, 32, 0, 0, 0, protocol::ICMPV6]),
    );
    sum = checksum::add(
        sum,
        checksum::add(
            checksum::sum(&[ADVERTISEMENT, 0, 0, 0]),
            checksum::sum(&flags),
        ),
    );
    sum = checksum::add(
        sum,
        checksum::add(
            checksum::sum(&gateway),
            checksum::sum(&[2, 1, m0, m1, m2, m3, m4, m5]),
        ),
    );
    let [high, low] = (!checksum::fold(sum)).to_ne_bytes();

    skb.become_plain(REPLY_LEN as u32)?;
    let frame = skb.window::<REPLY_LEN>(0)?;
    frame.set_macs(interface.guest_mac, GATEWAY_MAC);
    frame.set_four::<12>([0x86, 0xdd, 0x60, 0]);
    frame.set_four::<16>([0, 0, 0, 32]);
    frame.set_two::<20>([protocol::ICMPV6, 255]);
    frame.set_sixteen::<22>(gateway);
    frame.set_sixteen::<38>(to);
    frame.set_four::<54>([ADVERTISEMENT, 0, high, low]);
    frame.set_four::<58>(flags);
    frame.set_sixteen::<62>(gateway);
    frame.set_four::<78>([2, 1, m0, m1]);
    frame.set_four::<82>([m2, m3, m4, m5]);
    skb.set_mark(maps::mark());
    Ok(Action::Redirect(skb.redirect(interface.ifindex)))
}
