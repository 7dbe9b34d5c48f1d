//! What the world sends: replies to guests are taken, everything else is the host's.

use netagent_common::drop::DropReason;
use netagent_common::flow::{FlowKey, Sender};
use netagent_common::nat::{Reverse, ReverseKey};
use netagent_common::net::{GATEWAY_MAC, ethertype};
use netagent_common::policy::RouteKind;

use crate::family::Family;
use crate::kernel::Skb;
use crate::packet::Origin;
use crate::parse::{self, Header, Kind, Transport};
use crate::publish::Entrance;
use crate::verdict::{Action, Dropped, Judged, Packed};
use crate::{conntrack, maps, nat, publish};

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
            judge_at::<[u8; 4]>(skb, Entrance::Uplink)
        }
        ethertype::IPV6 => {
            skb.reach::<{ 14 + 40 + 20 }>(Origin::Uplink);
            judge_at::<[u8; 16]>(skb, Entrance::Uplink)
        }
        _ => Ok(Action::Next),
    }
}

/// Judges a packet that arrives for an address of the host, and opens a flow where it belongs to none and its port is
/// published. What takes a deep stack is called from here, for nested functions share 512 bytes.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn judge_at<A: Family>(skb: Skb, entrance: Entrance) -> Result<Action, Dropped> {
    let prepared = match packet::<A>(skb).answer_or_dropped()? {
        Judged::Done(action) => return Ok(action),
        Judged::Stale => judge_anew::<A>(skb),
        _ => publish::open::<A>(skb, entrance),
    };
    match prepared.answer_or_dropped()? {
        Judged::Opened => {}
        _ => return Ok(Action::Next),
    }
    match packet::<A>(skb).answer_or_dropped()? {
        Judged::Done(action) => Ok(action),
        // Its flow was removed, or the policy changed, in this very moment.
        _ => Err(Dropped::nowhere(DropReason::Unsolicited)),
    }
}

/// Judges the flow of a reply by the policy in force.
#[inline(never)]
fn judge_anew<A: Family>(skb: Skb) -> Packed {
    Packed::or_dropped(judge_flow_anew::<A>(skb))
}

#[inline(always)]
fn judge_flow_anew<A: Family>(skb: Skb) -> Result<Judged, Dropped> {
    let gone = Dropped::nowhere(DropReason::Unsolicited);
    let header = A::header(skb).map_err(Dropped::nowhere)?;
    let transport = parse::transport(skb, &header).map_err(Dropped::nowhere)?;
    let reverse = maps::reverse(&reverse_key(&header, &transport)).ok_or(gone)?;
    let key = flow_key(&header, &transport, reverse);
    let slot = maps::flow(&key).ok_or(gone)?.slot;
    let interface = maps::record(slot).map_err(Dropped::nowhere)?;
    if conntrack::revalidate(&key, interface, maps::route_generation()) {
        Ok(Judged::Opened)
    } else {
        Err(Dropped {
            slot,
            reason: DropReason::Unsolicited,
        })
    }
}

#[inline(never)]
fn packet<A: Family>(skb: Skb) -> Packed {
    Packed::or_dropped(judge_packet::<A>(skb))
}

/// [`Judged::NoFlow`] where the packet could open a flow at a published port.
#[inline(always)]
fn judge_packet<A: Family>(skb: Skb) -> Result<Judged, Dropped> {
    let Ok(header) = A::header(skb) else {
        return unparsed::<A>(skb);
    };
    match parse::transport(skb, &header) {
        Ok(transport) => match maps::reverse(&reverse_key(&header, &transport)) {
            Some(reverse) => reply(skb, (&header, &transport), reverse),
            None => newcomer(header.destination, transport.kind),
        },
        Err(DropReason::IcmpError) => icmp_error(skb, &header),
        Err(_) => not_a_reply(header.destination),
    }
}

#[inline(always)]
fn newcomer<A: Family>(destination: A, kind: Kind) -> Result<Judged, Dropped> {
    let Some(route) = maps::route(destination) else {
        return Ok(Judged::Done(Action::Next));
    };
    match RouteKind::from_number(route.kind) {
        RouteKind::Instance => Err(Dropped::nowhere(DropReason::NotRedirected)),
        RouteKind::Host if publish::may_open(kind) => Ok(Judged::NoFlow),
        _ => Ok(Judged::Done(Action::Next)),
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

#[inline(always)]
fn flow_key<A: Copy>(
    header: &Header<A>,
    transport: &Transport,
    reverse: &Reverse<A>,
) -> FlowKey<A> {
    FlowKey {
        instance: reverse.instance,
        guest: reverse.guest,
        remote: header.source,
        guest_port: reverse.guest_port,
        remote_port: transport.source,
        protocol: header.protocol.into(),
    }
}

/// The host's, unless it is addressed to an instance: with `ip_forward=1` the host would forward it.
#[inline(always)]
fn not_a_reply<A: Family>(destination: A) -> Result<Judged, Dropped> {
    let is_instance = maps::route(destination)
        .is_some_and(|route| RouteKind::from_number(route.kind) == RouteKind::Instance);
    if is_instance {
        Err(Dropped::nowhere(DropReason::NotRedirected))
    } else {
        Ok(Judged::Done(Action::Next))
    }
}

/// Options, extension headers, fragments and garbage are the host's to refuse, unless addressed to an instance.
#[inline(always)]
fn unparsed<A: Family>(skb: Skb) -> Result<Judged, Dropped> {
    match A::destination(skb) {
        Ok(destination) => not_a_reply(destination),
        Err(_) => Ok(Judged::Done(Action::Next)),
    }
}

/// A packet of a flow that a guest opened.
#[inline(always)]
fn reply<A: Family>(
    skb: Skb,
    (header, transport): (&Header<A>, &Transport),
    reverse: &Reverse<A>,
) -> Result<Judged, Dropped> {
    let key = flow_key(header, transport, reverse);
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
    if flow.policy_generation != interface.policy_generation {
        return Ok(Judged::Stale);
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
    let code = skb.redirect(interface.ifindex);
    Ok(Judged::Done(Action::Redirect(code)))
}

/// An ICMP error about a guest's flow is not translated and must not reach the host, whose flow it is not.
#[inline(always)]
fn icmp_error<A: Family>(skb: Skb, header: &Header<A>) -> Result<Judged, Dropped> {
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
