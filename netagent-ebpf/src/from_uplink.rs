//! What the world sends: replies to guests are taken, everything else is the host's.

use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, FlowKey, Sender};
use netagent_common::nat::{Reverse, ReverseKey};
use netagent_common::net::{GATEWAY_MAC, ethertype};
use netagent_common::policy::RouteKind;
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::Skb;
use crate::packet::Origin;
use crate::parse::{self, Header, Transport};
use crate::verdict::{Action, Dropped, Packed};
use crate::{conntrack, fragment, icmp, maps, mss, nat, quote};

/// Judges a frame from an uplink.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn judge(skb: Skb) -> Result<Action, Dropped> {
    // A foreign mark that equals ours would open the way into a TAP.
    if skb.mark() == maps::mark() {
        skb.set_mark(0);
    }
    if skb.vlan_present() || !skb.is_for_host() {
        return Ok(Action::Next);
    }
    let Ok(ethernet) = skb.window::<14>(0) else {
        return Ok(Action::Next);
    };
    let judged = match u16::from_be_bytes(ethernet.two::<12>()) {
        ethertype::IPV4 => explained::<[u8; 4]>(skb, ipv4(skb)),
        ethertype::IPV6 => explained::<[u8; 16]>(skb, ipv6(skb)),
        _ => return Ok(Action::Next),
    };
    judged.action_with_slot()
}

/// Does what takes a deep stack, which the function that found it out must not lie below: fragments, translating an
/// ICMP error, and making one where a packet cannot go on.
#[inline(always)]
fn explained<A: Family>(skb: Skb, judged: Packed) -> Packed {
    if judged.is_done() {
        return judged;
    }
    let slot = judged.slot();
    match judged.refusal() {
        Some(DropReason::Fragment) => fragment::from_uplink::<A>(skb),
        Some(DropReason::IcmpError) => quote::from_uplink::<A>(skb),
        Some(reason @ (DropReason::TooBig | DropReason::TtlExpired)) => {
            icmp::tell_world::<A>(skb, slot, reason)
        }
        _ => judged,
    }
}

#[inline(never)]
fn ipv4(skb: Skb) -> Packed {
    skb.reach::<{ 14 + 20 + 20 }>(Origin::Uplink);
    Packed::with_slot(packet::<[u8; 4]>(skb))
}

#[inline(never)]
fn ipv6(skb: Skb) -> Packed {
    skb.reach::<{ 14 + 40 + 20 }>(Origin::Uplink);
    Packed::with_slot(packet::<[u8; 16]>(skb))
}

#[inline(always)]
fn packet<A: Family>(skb: Skb) -> Result<Action, Dropped> {
    let header = match A::header(skb) {
        Ok(header) if !header.first_fragment => header,
        Ok(_) | Err(DropReason::Fragment) => return Err(Dropped::nowhere(DropReason::Fragment)),
        Err(_) => return unparsed::<A>(skb),
    };
    match parse::transport(skb, &header) {
        Ok(transport) => match maps::reverse(&reverse_key(&header, &transport)) {
            Some(reverse) => reply(skb, (&header, &transport), reverse),
            None => not_a_reply(header.destination),
        },
        Err(DropReason::IcmpError) => Err(Dropped::nowhere(DropReason::IcmpError)),
        Err(_) => not_a_reply(header.destination),
    }
}

#[inline(always)]
fn reverse_key<A: Copy>(header: &Header<A>, transport: &Transport) -> ReverseKey<A> {
    ReverseKey {
        remote: header.source,
        nat_address: header.destination,
        remote_port: transport.source,
        nat_port: transport.destination,
        protocol: header.protocol.into(),
    }
}

/// The host's, unless it is addressed to an instance: with `ip_forward=1` the host would forward it.
///
/// # Errors
/// [`DropReason::NotRedirected`].
#[inline(always)]
pub fn not_a_reply<A: Family>(destination: A) -> Result<Action, Dropped> {
    let is_instance = maps::route(destination)
        .is_some_and(|route| RouteKind::from_number(route.kind) == RouteKind::Instance);
    if is_instance {
        Err(Dropped::nowhere(DropReason::NotRedirected))
    } else {
        Ok(Action::Next)
    }
}

/// Options, extension headers and garbage are the host's to refuse, unless addressed to an instance.
///
/// # Errors
/// As of [`not_a_reply`].
#[inline(always)]
pub fn unparsed<A: Family>(skb: Skb) -> Result<Action, Dropped> {
    match A::destination(skb) {
        Ok(destination) => not_a_reply(destination),
        Err(_) => Ok(Action::Next),
    }
}

/// A packet of a flow that a guest opened.
#[inline(always)]
fn reply<A: Family>(
    skb: Skb,
    (header, transport): (&Header<A>, &Transport),
    reverse: &Reverse<A>,
) -> Result<Action, Dropped> {
    let (flow, interface) = flow_of(&reverse_key(header, transport), reverse)?;
    let slot = interface.slot;
    let dropped = |reason| Dropped { slot, reason };
    // What refreshes a flow is what the guest sends as well; its port is looked after there.
    conntrack::touch(flow, Sender::World, transport.kind);
    parse::fits::<A>(skb, transport, interface.mtu).map_err(dropped)?;
    if header.hop_limit <= 1 {
        return Err(dropped(DropReason::TtlExpired));
    }
    maps::count_to_vm(slot, parse::on_the_wire::<A>(skb, transport));
    if transport.kind.opens() {
        mss::clamp::<A>(skb, transport.len, flow.mtu.min(interface.mtu));
    }
    let guest = (reverse.guest, reverse.guest_port);
    nat::rewrite_destination(skb, header, transport, guest).map_err(dropped)?;
    skb.window::<12>(0)
        .map_err(dropped)?
        .set_macs(interface.guest_mac, GATEWAY_MAC);
    skb.set_mark(maps::mark());
    Ok(Action::Redirect(skb.redirect(interface.ifindex)))
}

/// The flow to which a packet of the world belongs, and the interface that it goes to.
///
/// # Errors
/// [`DropReason::Unsolicited`] where it is gone, or belongs to an earlier life of the slot.
#[inline(always)]
pub fn flow_of<A: Family>(
    key: &ReverseKey<A>,
    reverse: &Reverse<A>,
) -> Result<(&'static mut Flow<A>, &'static Interface), Dropped> {
    let flow_key = FlowKey {
        instance: reverse.instance,
        guest: reverse.guest,
        remote: key.remote,
        guest_port: reverse.guest_port,
        remote_port: key.remote_port,
        protocol: key.protocol,
    };
    let flow = maps::flow(&flow_key).ok_or(Dropped::nowhere(DropReason::Unsolicited))?;
    let slot = flow.slot;
    let dropped = |reason| Dropped { slot, reason };
    let interface = maps::record(slot).map_err(dropped)?;
    if flow.generation != interface.generation
        || flow.nat_port != key.nat_port
        || flow.nat_address != key.nat_address
    {
        return Err(dropped(DropReason::Unsolicited));
    }
    Ok((flow, interface))
}
