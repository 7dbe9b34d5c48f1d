//! What the world sends: replies to guests are taken, everything else is the host's.

use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, Opener, Sender};
use netagent_common::nat::{Reverse, ReverseKey};
use netagent_common::net::{GATEWAY_MAC, ethertype};
use netagent_common::policy::RouteKind;
use netagent_common::vm::Interface;

use crate::apart::Apart;
use crate::conntrack::Again;
use crate::family::Family;
use crate::kernel::Skb;
use crate::packet::Origin;
use crate::parse::{self, Header, Kind, Transport};
use crate::publish::Entrance;
use crate::verdict::{Action, Dropped, Judged, Packed, Settled};
use crate::{
    conntrack, fragment, icmp, limit, mapping, maps, mss, nat, publish, quote, resume, shortcut,
    vm_to_vm,
};

/// Judges a frame from an uplink.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn judge(skb: Skb) -> Result<Action, Dropped> {
    skb.set_no_leg();
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
            explained::<[u8; 4]>(skb, judge_at::<[u8; 4]>(skb, Entrance::Uplink))
        }
        ethertype::IPV6 => {
            skb.reach::<{ 14 + 40 + 20 }>(Origin::Uplink);
            explained::<[u8; 16]>(skb, judge_at::<[u8; 16]>(skb, Entrance::Uplink))
        }
        _ => Ok(Action::Next),
    }
}

/// Does what takes a deep stack, which the function that found it out must not lie below: fragments, translating an
/// ICMP error, and making one where a packet cannot go on.
#[inline(always)]
fn explained<A: Family>(skb: Skb, judged: Result<Action, Dropped>) -> Result<Action, Dropped> {
    match judged {
        Err(Dropped {
            reason: DropReason::Fragment,
            ..
        }) => once_more(skb, fragment::from_uplink::<A>, fragment::judge_anew::<A>),
        Err(Dropped {
            reason: DropReason::IcmpError,
            ..
        }) => once_more(skb, quote::from_uplink::<A>, quote::judge_anew::<A>),
        Err(Dropped {
            slot,
            reason: DropReason::TooBig,
        }) => icmp::tell_world::<A>(skb, slot, DropReason::TooBig).action_with_slot(),
        Err(Dropped {
            slot,
            reason: DropReason::TtlExpired,
        }) => icmp::tell_world::<A>(skb, slot, DropReason::TtlExpired).action_with_slot(),
        judged => judged,
    }
}

/// Judges a packet, and once more where its flow, opened under another policy, may go on by the one in force.
#[inline(always)]
fn once_more(
    skb: Skb,
    judge: impl Fn(Skb) -> Packed,
    may_go_on: impl Fn(Skb) -> bool,
) -> Result<Action, Dropped> {
    let mut judged = judge(skb);
    if judged.is_stale() && may_go_on(skb) {
        judged = judge(skb);
    }
    if judged.is_stale() {
        return Err(Dropped::nowhere(DropReason::Unsolicited));
    }
    judged.action_with_slot()
}

/// Judges a packet that arrives for an address of the host, and opens a flow where it belongs to none and its port is
/// published. What takes a deep stack is called from here, for nested functions share 512 bytes.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn judge_at<A: Apart>(skb: Skb, entrance: Entrance) -> Result<Action, Dropped> {
    let mut judged = match entrance {
        Entrance::Uplink => A::deliver(skb, Settled::UNKNOWN.to_number()),
        // What comes from a guest is no packet of the world, of which alone something is known.
        Entrance::TurnedRound => Packed::new(Ok(Judged::Unsettled)),
    };
    if judged.is_done() {
        return judged.action_with_slot();
    }
    judged = judged.forgotten();
    if judged.is_unsettled() {
        judged = settled_delivered::<A>(skb, entrance);
        if judged.is_done() {
            return judged.action_with_slot();
        }
        judged = judged.forgotten();
    }
    let is_stale = judged.is_stale();
    if is_stale || judged.is_no_flow() {
        let prepared = if is_stale {
            let judged = resume::judge_from_uplink::<A>(skb).forgotten();
            match judged.forbidden() {
                Some(reason) => return ended::<A>(skb, entrance, reason),
                None => judged,
            }
        } else if is_admitted::<A>(skb, entrance) {
            Packed::new(Ok(Judged::Opened))
        } else if is_between_guests::<A>(skb, entrance) {
            A::open_at_guest(skb)
        } else {
            A::open_published(skb, entrance as u64)
        };
        if prepared.is_no_flow() {
            return Ok(Action::Next);
        }
        if !prepared.is_opened() {
            return prepared.action_with_slot();
        }
        judged = settled_delivered::<A>(skb, entrance);
        if judged.is_stale() || judged.is_no_flow() || judged.is_unsettled() {
            // Its flow was removed, or the policy changed, in this very moment.
            return Err(Dropped::nowhere(DropReason::Unsolicited));
        }
    }
    judged.action_with_slot()
}

/// Tells both ends of a flow that may not go on: of a connection by resets, of anything else who sent the packet.
#[inline(always)]
fn ended<A: Apart>(skb: Skb, entrance: Entrance, reason: u64) -> Result<Action, Dropped> {
    let told = A::end_from_uplink(skb, reason).forgotten();
    match told.action_with_slot() {
        Err(Dropped { slot, reason }) if entrance == Entrance::Uplink => {
            icmp::tell_world::<A>(skb, slot, reason).action_with_slot()
        }
        told => told,
    }
}

/// Looks at the flow of a packet, and delivers it where the flow may go on.
#[inline(always)]
fn settled_delivered<A: Apart>(skb: Skb, entrance: Entrance) -> Packed {
    let judged = A::settle(skb, entrance as u64).forgotten();
    match judged.settled() {
        Some(settled) => A::deliver(skb, settled.to_number()),
        None => judged,
    }
}

/// Whether whoever sends to a guest's port reaches it, and this packet, whose flow is there now, does.
#[inline(always)]
fn is_admitted<A: Family>(skb: Skb, entrance: Entrance) -> bool {
    entrance == Entrance::Uplink && maps::filters_nobody() && mapping::admit::<A>(skb)
}

/// Whether a guest sends to the own address of another.
#[inline(always)]
pub fn is_between_guests<A: Family>(skb: Skb, entrance: Entrance) -> bool {
    entrance == Entrance::TurnedRound
        && A::destination(skb).is_ok_and(|destination| conntrack::is_instances(destination))
}

/// Judges the flow of a packet of the world by the policy in force.
///
/// # Errors
/// Why it may not go on; it is gone then.
#[inline(always)]
pub fn revalidate<A: Family>(key: &ReverseKey<A>) -> Result<(), Dropped> {
    let gone = Dropped::nowhere(DropReason::Unsolicited);
    let key = nat::flow_key(key, maps::reverse(key).ok_or(gone)?);
    let slot = maps::flow(&key).ok_or(gone)?.slot;
    let interface = maps::record(slot).map_err(Dropped::nowhere)?;
    let again = conntrack::keep_or_forget(&key, interface);
    if again == Again::GOES_ON {
        return Ok(());
    }
    Err(Dropped {
        slot,
        reason: again.forbidden().unwrap_or(DropReason::Unsolicited),
    })
}

/// Looks at the flow of a packet and notes the packet in it: [`Judged::Settled`] where it may go on.
#[inline(always)]
pub fn settle<A: Family>(skb: Skb, entrance: u64) -> Packed {
    let entrance = Entrance::from_number(entrance);
    Packed::with_slot(judge_packet::<A>(skb, entrance, |packet, entry| {
        settle_flow(skb, packet, entry, entrance)
    }))
}

/// Delivers a packet of a flow that was settled, or is known to stand as it is; others are [`Judged::Unsettled`].
#[inline(always)]
pub fn deliver<A: Family>(skb: Skb, settled: u64) -> Packed {
    let settled = Settled::from_number(settled);
    let deliver_packet = |packet: (&Header<A>, &Transport),
                          entry: (u32, &'static mut Reverse<A>)| {
        let ((_, transport), (tag, reverse)) = (packet, entry);
        let interface = match settled.slot() {
            Some(slot) => maps::record(slot).map_err(Dropped::nowhere)?,
            None => match shortcut::recall(reverse, transport.kind) {
                Some(interface) => interface,
                None => return Ok(Judged::Unsettled),
            },
        };
        match shortcut::guest(tag, reverse, interface) {
            Some(guest) => pass(skb, packet, interface, guest),
            // Where another CPU noted another flow in it, the flow itself says whose it is.
            None if settled.slot().is_none() => Ok(Judged::Unsettled),
            None => Err(Dropped::nowhere(DropReason::Unsolicited)),
        }
    };
    Packed::with_slot(judge_packet::<A>(skb, Entrance::Uplink, deliver_packet))
}

/// [`Judged::NoFlow`] where the packet could open a flow at a published port.
#[inline(always)]
fn judge_packet<A: Family>(
    skb: Skb,
    entrance: Entrance,
    reply: impl FnOnce(
        (&Header<A>, &Transport),
        (u32, &'static mut Reverse<A>),
    ) -> Result<Judged, Dropped>,
) -> Result<Judged, Dropped> {
    let header = match A::header(skb) {
        Ok(header) if !header.first_fragment => header,
        Ok(_) | Err(DropReason::Fragment) => return Err(Dropped::nowhere(DropReason::Fragment)),
        Err(_) => return unparsed::<A>(skb),
    };
    match parse::transport(skb, &header) {
        Ok(transport) => {
            let key = reverse_key(&header, &transport);
            let tag = shortcut::tag(&key);
            match maps::reverse(&key) {
                Some(reverse) => reply((&header, &transport), (tag, reverse)),
                None => newcomer(header.destination, transport.kind, entrance),
            }
        }
        Err(DropReason::IcmpError) => Err(Dropped::nowhere(DropReason::IcmpError)),
        Err(_) => not_a_reply(header.destination),
    }
}

#[inline(always)]
fn newcomer<A: Family>(destination: A, kind: Kind, entrance: Entrance) -> Result<Judged, Dropped> {
    let Some(route) = maps::route(destination) else {
        return Ok(Judged::Done(Action::Next));
    };
    match RouteKind::from_number(route.kind) {
        RouteKind::Instance if entrance == Entrance::TurnedRound => {
            if vm_to_vm::may_open(kind) {
                Ok(Judged::NoFlow)
            } else {
                Err(Dropped::nowhere(DropReason::Unsolicited))
            }
        }
        RouteKind::Instance => Err(Dropped::nowhere(DropReason::NotRedirected)),
        RouteKind::Host if publish::may_open(kind) => Ok(Judged::NoFlow),
        RouteKind::Host
        | RouteKind::Uplink
        | RouteKind::AlwaysDenied
        | RouteKind::NotUplink
        | RouteKind::Unreachable => Ok(Judged::Done(Action::Next)),
    }
}

/// Key of the entry of a packet of the world.
#[inline(always)]
pub fn reverse_key<A: Copy>(header: &Header<A>, transport: &Transport) -> ReverseKey<A> {
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
pub fn not_a_reply<A: Family>(destination: A) -> Result<Judged, Dropped> {
    let is_instance = maps::route(destination)
        .is_some_and(|route| RouteKind::from_number(route.kind) == RouteKind::Instance);
    if is_instance {
        Err(Dropped::nowhere(DropReason::NotRedirected))
    } else {
        Ok(Judged::Done(Action::Next))
    }
}

/// Options, extension headers and garbage are the host's to refuse, unless addressed to an instance.
///
/// # Errors
/// As of [`not_a_reply`].
#[inline(always)]
pub fn unparsed<A: Family>(skb: Skb) -> Result<Judged, Dropped> {
    match A::destination(skb) {
        Ok(destination) => not_a_reply(destination),
        Err(_) => Ok(Judged::Done(Action::Next)),
    }
}

#[inline(always)]
fn settle_flow<A: Family>(
    skb: Skb,
    (header, transport): (&Header<A>, &Transport),
    (tag, reverse): (u32, &mut Reverse<A>),
    entrance: Entrance,
) -> Result<Judged, Dropped> {
    let (flow, interface) = flow_of(&reverse_key(header, transport), reverse)?;
    let slot = interface.slot;
    let dropped = |reason| Dropped { slot, reason };
    // Between a guest and a published port nothing comes from the world, whatever address it bears.
    let turns_round = Opener::turns_round(flow.opener);
    if turns_round != (entrance == Entrance::TurnedRound) {
        return Err(dropped(DropReason::Unsolicited));
    }
    if Opener::is_between_guests(flow.opener) && !vm_to_vm::is_from_one_account(skb, interface) {
        return Err(dropped(DropReason::OtherInstance));
    }
    if flow.policy_generation != interface.policy_generation {
        return Ok(Judged::Stale);
    }
    // What refreshes a flow is what the guest sends as well; its port is looked after there.
    conntrack::touch(flow, Sender::World, transport.kind);
    if !turns_round {
        shortcut::remember(tag, reverse, flow);
    }
    if transport.kind.opens() {
        mss::clamp::<A>(skb, transport.len, flow.mtu.min(interface.mtu));
    }
    Ok(Judged::Settled(slot))
}

/// Passes a packet to its guest.
#[inline(always)]
fn pass<A: Family>(
    skb: Skb,
    (header, transport): (&Header<A>, &Transport),
    interface: &Interface,
    guest: (A, [u8; 2]),
) -> Result<Judged, Dropped> {
    let slot = interface.slot;
    let dropped = |reason| Dropped { slot, reason };
    parse::fits::<A>(skb, transport, interface.mtu).map_err(dropped)?;
    if header.hop_limit <= 1 {
        return Err(dropped(DropReason::TtlExpired));
    }
    nat::rewrite_destination(skb, header, transport, guest).map_err(dropped)?;
    let on_the_wire = parse::on_the_wire::<A>(skb, transport);
    limit::to_vm(skb, interface, on_the_wire).map_err(dropped)?;
    hand_over(skb, interface).map(Judged::Done).map_err(dropped)
}

/// Hands a packet over to its guest.
///
/// # Errors
/// [`DropReason::RelayDown`] where it would have to go to a relay that is not there; [`DropReason::Malformed`] where it
/// has no Ethernet header.
#[inline(always)]
pub fn hand_over(skb: Skb, interface: &Interface) -> Result<Action, DropReason> {
    redirect(skb, interface).map(Action::Redirect)
}

/// The same; gives the code of the redirect.
///
/// # Errors
/// As of [`hand_over`].
#[inline(always)]
pub fn redirect(skb: Skb, interface: &Interface) -> Result<i32, DropReason> {
    if interface.ifindex == 0 {
        return Err(DropReason::RelayDown);
    }
    skb.window::<12>(0)?
        .set_macs(interface.guest_mac, GATEWAY_MAC);
    skb.set_mark(maps::mark());
    Ok(skb.redirect(interface.ifindex))
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
    let flow = maps::flow(&nat::flow_key(key, reverse))
        .ok_or(Dropped::nowhere(DropReason::Unsolicited))?;
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
