//! What the world sends: replies to guests are taken, everything else is the host's.

use netagent_common::drop::DropReason;
use netagent_common::flow::{FlowKey, Sender};
use netagent_common::nat::{Reverse, ReverseKey};
use netagent_common::net::protocol::UDP;
use netagent_common::net::{GATEWAY_MAC, ethertype};
use netagent_common::policy::RouteKind;

use crate::family::Family;
use crate::kernel::Skb;
use crate::packet::Origin;
use crate::parse::{self, Header, Transport};
use crate::verdict::{Action, Dropped};
use crate::{conntrack, mapping, maps, nat};

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
    match u16::from_be_bytes(ethernet.two::<12>()) {
        ethertype::IPV4 => {
            skb.reach::<{ 14 + 20 + 20 }>(Origin::Uplink);
            packet::<[u8; 4]>(skb)
        }
        ethertype::IPV6 => {
            skb.reach::<{ 14 + 40 + 20 }>(Origin::Uplink);
            packet::<[u8; 16]>(skb)
        }
        _ => Ok(Action::Next),
    }
}

#[inline(always)]
fn packet<A: Family>(skb: Skb) -> Result<Action, Dropped> {
    let Ok(header) = A::header(skb) else {
        return unparsed::<A>(skb);
    };
    match parse::transport(skb, &header) {
        Ok(transport) => match reverse_or_admitted(skb, &reverse_key(&header, &transport)) {
            Some(reverse) => reply(skb, (&header, &transport), reverse),
            None => not_a_reply(header.destination),
        },
        Err(DropReason::IcmpError) => icmp_error(skb, &header),
        Err(_) => not_a_reply(header.destination),
    }
}

/// The reverse entry of a packet; one that is there only now where whoever sends to a guest's port reaches it.
#[inline(always)]
fn reverse_or_admitted<A: Family>(skb: Skb, key: &ReverseKey<A>) -> Option<&'static Reverse<A>> {
    let known = maps::reverse(key);
    let may_be_admitted = maps::filters_nobody() && key.protocol == u32::from(UDP);
    if known.is_none() && may_be_admitted && mapping::admit::<A>(skb) {
        return maps::reverse(key);
    }
    known
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
#[inline(always)]
fn not_a_reply<A: Family>(destination: A) -> Result<Action, Dropped> {
    let is_instance = maps::route(destination)
        .is_some_and(|route| RouteKind::from_number(route.kind) == RouteKind::Instance);
    if is_instance {
        Err(Dropped::nowhere(DropReason::NotRedirected))
    } else {
        Ok(Action::Next)
    }
}

/// Options, extension headers, fragments and garbage are the host's to refuse, unless addressed to an instance.
#[inline(always)]
fn unparsed<A: Family>(skb: Skb) -> Result<Action, Dropped> {
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
    let key = FlowKey {
        instance: reverse.instance,
        guest: reverse.guest,
        remote: header.source,
        guest_port: reverse.guest_port,
        remote_port: transport.source,
        protocol: header.protocol.into(),
    };
    // Its flow is gone, or belongs to an earlier life of the slot.
    let flow = maps::flow(&key).ok_or(Dropped::nowhere(DropReason::Unsolicited))?;
    let slot = flow.slot;
    let dropped = |reason| Dropped { slot, reason };
    let interface = maps::record(slot).map_err(dropped)?;
    if flow.generation != interface.generation
        || flow.nat_port != transport.destination
        || flow.nat_address != header.destination
    {
        return Err(dropped(DropReason::Unsolicited));
    }
    if header.first_fragment {
        return Err(dropped(DropReason::Fragment));
    }
    // What refreshes a flow is what the guest sends as well; its port is looked after there.
    conntrack::touch(flow, Sender::World, transport.kind);
    parse::fits::<A>(skb, transport, interface.mtu).map_err(dropped)?;
    if header.hop_limit <= 1 {
        return Err(dropped(DropReason::TtlExpired));
    }
    maps::count_to_vm(slot, parse::on_the_wire::<A>(skb, transport));
    let guest = (reverse.guest, reverse.guest_port);
    nat::rewrite_destination(skb, header, transport, guest).map_err(dropped)?;
    skb.window::<12>(0)
        .map_err(dropped)?
        .set_macs(interface.guest_mac, GATEWAY_MAC);
    skb.set_mark(maps::mark());
    Ok(Action::Redirect(skb.redirect(interface.ifindex)))
}

/// An ICMP error about a guest's flow is not translated and must not reach the host, whose flow it is not.
#[inline(always)]
fn icmp_error<A: Family>(skb: Skb, header: &Header<A>) -> Result<Action, Dropped> {
    skb.reach::<{ 14 + 40 + 8 + 40 + 8 }>(Origin::Uplink);
    let Ok(quoted) = A::quoted(skb) else {
        return not_a_reply(header.destination);
    };
    let [first, second, third, _] = quoted.transport;
    let (nat_port, remote_port) = if quoted.protocol == A::ICMP {
        (third, [0; 2])
    } else {
        (first, second)
    };
    let key = ReverseKey {
        remote: quoted.destination,
        nat_address: quoted.source,
        remote_port,
        nat_port,
        protocol: quoted.protocol.into(),
    };
    match maps::reverse(&key) {
        Some(reverse) => Err(Dropped {
            slot: reverse.instance,
            reason: DropReason::IcmpError,
        }),
        None => not_a_reply(header.destination),
    }
}
