//! Neighbour discovery (RFC 4861): questions for the gateway are answered, everything else ends here.

use netagent_common::checksum;
use netagent_common::drop::DropReason;
use netagent_common::net::{ETHERNET_LEN, GATEWAY_MAC, protocol};
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::Skb;
use crate::parse::{ICMP_CHECKSUM_OFFSET, transport_offset};
use crate::services;
use crate::spoof::{self, is_link_local};
use crate::verdict::{Action, Packed};
use crate::{maps, relay};

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Ethernet, IPv6, the advertisement, and its option with the link-layer address.
const REPLY_LEN: usize = 14 + 40 + 24 + 8;

/// The ICMPv6 type, where the packet is one of neighbour discovery.
#[inline(always)]
pub fn kind(skb: Skb) -> Option<u8> {
    const NEXT_HEADER: u32 = 6;
    let next_header = skb
        .window::<1>(ETHERNET_LEN + NEXT_HEADER)
        .ok()?
        .byte::<0>();
    if next_header != protocol::ICMPV6 {
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
    Packed::of(judge(skb, interface, kind))
}

#[inline(always)]
fn judge(skb: Skb, interface: &Interface, kind: u8) -> Result<Action, DropReason> {
    <[u8; 16]>::header(skb)?;
    spoof::check_partial_checksum::<[u8; 16]>(skb, ICMP_CHECKSUM_OFFSET)?;
    match (kind, interface.has_v6) {
        // Every guest asks, whether its host has IPv6 or not.
        (ROUTER_SOLICITATION, 0) => return Err(DropReason::RouterSolicit),
        (_, 0) => return Err(DropReason::SpoofedAddress),
        (ROUTER_ADVERTISEMENT | REDIRECT, _) => return Err(DropReason::RogueRouter),
        (ROUTER_SOLICITATION, _) => return solicitation(skb, interface),
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
    if kind != SOLICITATION
        || !(target == interface.gateway_v6 || relay::is_clients(interface, target))
    {
        return Err(DropReason::NeighbourUnanswered);
    }
    let to = if is_probe { ALL_NODES } else { source };
    answer(skb, interface, (to, target), is_probe)
}

/// A router solicitation: the agent's server answers it.
#[inline(always)]
fn solicitation(skb: Skb, interface: &Interface) -> Result<Action, DropReason> {
    let ip = skb.window::<40>(ETHERNET_LEN)?;
    let (hop_limit, source, destination) = (ip.byte::<7>(), ip.sixteen::<8>(), ip.sixteen::<24>());
    let message = skb.window::<8>(transport_offset::<[u8; 16]>())?;
    if hop_limit != 255 || message.byte::<1>() != 0 {
        return Err(DropReason::Malformed);
    }
    let is_claimed = source == [0; 16] || is_claimable(interface, source);
    if !is_claimed || !services::is_own_link_layer(skb, interface, source) {
        return Err(DropReason::SpoofedNeighbour);
    }
    if destination != ALL_ROUTERS && destination != interface.gateway_v6 {
        return Err(DropReason::NeighbourUnanswered);
    }
    services::router(skb, interface)
}

/// ff02::2.
const ALL_ROUTERS: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

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
    (to, target): ([u8; 16], [u8; 16]),
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
            checksum::sum(&target),
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
    frame.set_sixteen::<62>(target);
    frame.set_four::<78>([2, 1, m0, m1]);
    frame.set_four::<82>([m2, m3, m4, m5]);
    skb.set_mark(maps::mark());
    Ok(Action::Redirect(skb.redirect(interface.ifindex)))
}
