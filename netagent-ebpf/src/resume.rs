//! Flows that were opened under another policy or other routes: judged anew by their next packet, from either end, and
//! ended for both ends where they may not go on (P-9). Judging and telling are functions of their own: each takes most of
//! the stack.

use netagent_common::drop::{DropReason, NO_SLOT};
use netagent_common::flow::{Flow, FlowKey, Opener, Sender};
use netagent_common::nat::ReverseKey;
use netagent_common::net::tcp_flag::RST;
use netagent_common::net::{ETHERNET_LEN, GATEWAY_MAC, ethertype, protocol};
use netagent_common::policy::policy_flag;
use netagent_common::vm::Interface;

use crate::conntrack::{self, Again};
use crate::family::Family;
use crate::from_uplink::{flow_of, hand_over, reverse_key};
use crate::kernel::Skb;
use crate::parse::{Header, Kind, Transport};
use crate::reset::{self, Cause};
use crate::verdict::{Action, Dropped, Judged, Packed};
use crate::{maps, nat, parse, relay};

/// What is left of a flow that ended, for those who tell its ends.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ended<A> {
    guest: A,
    nat_address: A,
    next_hop: A,
    guest_port: [u8; 2],
    nat_port: [u8; 2],
    uplink: u32,
    slot: u32,
    /// 1 where the flow turns round: then the next hop is the guest at its other end.
    turns_round: u16,
    /// The port of that guest.
    other_port: [u8; 2],
    /// Slot of its interface; [`NO_SLOT`] where it is not known any more.
    other_slot: u32,
}

/// Judges the flow of a packet of the guest anew: [`Judged::Opened`] where it may go on, [`Judged::NoFlow`] where there is
/// none, [`Judged::Forbidden`] where it may not: it was removed, and what is left of it lies where this CPU makes flows.
#[inline(never)]
pub fn judge_from_vm<A: Family>(skb: Skb, interface: &Interface) -> Packed {
    Packed::new(judge_packet_from_vm::<A>(skb, interface))
}

#[inline(always)]
fn judge_packet_from_vm<A: Family>(skb: Skb, interface: &Interface) -> Result<Judged, DropReason> {
    let header = A::header(skb)?;
    let transport = parse::transport(skb, &header)?;
    let key = conntrack::key_from_vm(interface, &header, &transport);
    Ok(judge(&key, interface).unwrap_or(Judged::NoFlow))
}

/// `None` where there is no flow, or not on its way.
#[inline(always)]
fn judge<A: Family>(key: &FlowKey<A>, interface: &Interface) -> Option<Judged> {
    judged(key, interface, conntrack::revalidate(key, interface))
}

/// The same, once it is known what becomes of the flow.
#[inline(always)]
pub fn judged<A: Family>(key: &FlowKey<A>, interface: &Interface, again: Again) -> Option<Judged> {
    if again == Again::GOES_ON {
        return Some(Judged::Opened);
    }
    let reason = again.forbidden()?;
    let flow: &mut Flow<A> = maps::flow(key)?;
    let ended = maps::scratch_ended::<A>()?;
    ended.guest = key.guest;
    ended.guest_port = key.guest_port;
    ended.nat_address = flow.nat_address;
    ended.next_hop = flow.next_hop;
    ended.nat_port = flow.nat_port;
    ended.uplink = flow.uplink;
    ended.slot = flow.slot;
    ended.turns_round = 0;
    ended.other_slot = NO_SLOT;
    if Opener::turns_round(flow.opener) {
        ended.turns_round = 1;
        note_other(key, ended);
    }
    conntrack::forget(key, flow, interface);
    Some(Judged::Forbidden(reason))
}

/// Notes whom the flow that turns round led to. That guest's own flow ends with the reset that it gets.
#[inline(never)]
fn note_other<A: Family>(key: &FlowKey<A>, ended: &mut Ended<A>) {
    let key = ReverseKey {
        remote: ended.nat_address,
        nat_address: key.remote,
        remote_port: ended.nat_port,
        nat_port: key.remote_port,
        protocol: key.protocol,
    };
    let Some(reverse) = maps::reverse(&key) else {
        return;
    };
    let Ok((flow, interface)) = flow_of(&key, reverse) else {
        return;
    };
    if key.protocol == protocol::TCP.into() {
        conntrack::touch(flow, Sender::World, Kind::Segment(RST));
    }
    ended.next_hop = reverse.guest;
    ended.other_port = reverse.guest_port;
    ended.other_slot = interface.slot;
}

/// Tells both ends of a connection, whose flow a packet of the guest just ended, by resets, and counts the drop; of
/// anything else the drop, for the reason with this number, is the answer.
///
/// One end is told by a copy, then the other by what the frame becomes. A segment that is a reset is answered by none, and
/// tells the other end all the same.
#[inline(always)]
pub fn end_from_vm<A: Family>(skb: Skb, reason: u64) -> Packed {
    let reason = DropReason::from_number(reason as u32).unwrap_or(DropReason::Unsolicited);
    let told = maps::interface_of(skb).and_then(|interface| {
        let slot = interface.slot;
        tell_from_vm::<A>(skb, interface, reason)
            .inspect(|_| maps::count_drop(Dropped { slot, reason }))
    });
    Packed::of(told)
}

#[inline(always)]
fn tell_from_vm<A: Family>(
    skb: Skb,
    interface: &Interface,
    reason: DropReason,
) -> Result<Action, DropReason> {
    let header = A::header(skb)?;
    let transport = parse::transport(skb, &header)?;
    let cause = Cause::read(skb, &header, &transport);
    let ended = maps::scratch_ended::<A>().ok_or(reason)?;
    if !cause.is_segment() {
        return Err(reason);
    }
    let (guest, remote) = (header.source, header.destination);
    let there = skb.window::<12>(0)?.words::<0, 3>();
    if cause.is_answered() {
        let back = skb.window::<12>(0)?.swapped_macs();
        let ports = [transport.destination, transport.source];
        reset::write(skb, &cause.for_sender(back, (remote, guest), ports))?;
        skb.set_mark(maps::mark());
        skb.send_copy(interface.ifindex);
        skb.set_mark(0);
    }
    if ended.turns_round != 0 {
        let other = maps::record(ended.other_slot).map_err(|_gone| reason)?;
        let ports = [ended.nat_port, ended.other_port];
        let ends = (ended.nat_address, ended.next_hop);
        reset::write(skb, &cause.for_receiver(there, ends, ports))?;
        return hand_over(skb, other);
    }
    if ended.uplink == 0 {
        let ports = [transport.source, transport.destination];
        reset::write(skb, &cause.for_receiver(there, (guest, remote), ports))?;
        if interface.policy_flags & policy_flag::RELAYED != 0 {
            return hand_over(skb, relay::leg(interface)?);
        }
        return Ok(Action::Next);
    }
    let ports = [ended.nat_port, transport.destination];
    let ends = (ended.nat_address, remote);
    reset::write(skb, &cause.for_receiver(there, ends, ports))?;
    let next_hop = if ended.next_hop == A::ZERO {
        remote
    } else {
        ended.next_hop
    };
    Ok(Action::Redirect(A::redirect(ended.uplink, next_hop, skb)))
}

/// Judges the flow of a packet of the world anew, as [`judge_from_vm`] does.
#[inline(never)]
pub fn judge_from_uplink<A: Family>(skb: Skb) -> Packed {
    Packed::with_slot(judge_packet_from_uplink::<A>(skb))
}

#[inline(always)]
fn judge_packet_from_uplink<A: Family>(skb: Skb) -> Result<Judged, Dropped> {
    let gone = Dropped::nowhere(DropReason::Unsolicited);
    let (header, transport) = parsed::<A>(skb)?;
    let reverse_key: ReverseKey<A> = reverse_key(&header, &transport);
    let key = nat::flow_key(&reverse_key, maps::reverse(&reverse_key).ok_or(gone)?);
    let slot = maps::flow(&key).ok_or(gone)?.slot;
    let interface = maps::record(slot).map_err(Dropped::nowhere)?;
    let reason = DropReason::Unsolicited;
    judge(&key, interface).ok_or(Dropped { slot, reason })
}

#[inline(always)]
fn parsed<A: Family>(skb: Skb) -> Result<(Header<A>, Transport), Dropped> {
    let header = A::header(skb).map_err(Dropped::nowhere)?;
    let transport = parse::transport(skb, &header).map_err(Dropped::nowhere)?;
    Ok((header, transport))
}

/// Tells both ends of a connection whose flow a packet of the world just ended, as [`end_from_vm`] does.
#[inline(always)]
pub fn end_from_uplink<A: Family>(skb: Skb, reason: u64) -> Packed {
    let reason = DropReason::from_number(reason as u32).unwrap_or(DropReason::Unsolicited);
    Packed::with_slot(tell_from_uplink::<A>(skb, reason).map(Judged::Done))
}

#[inline(always)]
fn tell_from_uplink<A: Family>(skb: Skb, reason: DropReason) -> Result<Action, Dropped> {
    let (header, transport) = parsed::<A>(skb)?;
    let cause = Cause::read(skb, &header, &transport);
    let ended = maps::scratch_ended::<A>().ok_or(Dropped::nowhere(reason))?;
    let slot = ended.slot;
    let dropped = Dropped { slot, reason };
    if !cause.is_segment() {
        return Err(dropped);
    }
    let interface = maps::record(slot).map_err(Dropped::nowhere)?;
    tell_both(skb, (&header, &transport), (interface, ended), &cause)
        .inspect(|_| maps::count_drop(dropped))
        .map_err(|reason| Dropped { slot, reason })
}

/// Tells the guest in place of the packet, and who sent it: another guest by its interface, the world by the router that
/// handed it over.
#[inline(always)]
fn tell_both<A: Family>(
    skb: Skb,
    (header, transport): (&Header<A>, &Transport),
    (interface, ended): (&Interface, &Ended<A>),
    cause: &Cause,
) -> Result<Action, DropReason> {
    let uplink = skb.ifindex();
    let back = skb.window::<12>(0)?.swapped_macs();
    let ports = [transport.source, ended.guest_port];
    let ends = (header.source, ended.guest);
    reset::write(skb, &cause.for_receiver(back, ends, ports))?;
    if !cause.is_answered() {
        return hand_over(skb, interface);
    }
    skb.window::<{ ETHERNET_LEN as usize }>(0)?
        .set_macs(interface.guest_mac, GATEWAY_MAC);
    skb.set_mark(maps::mark());
    skb.send_copy(interface.ifindex);
    skb.set_mark(0);
    if ended.turns_round != 0 {
        let sender = maps::record(ended.other_slot).map_err(|_gone| DropReason::Unsolicited)?;
        let ports = [transport.destination, ended.other_port];
        let ends = (header.destination, ended.next_hop);
        reset::write(skb, &cause.for_sender(back, ends, ports))?;
        return hand_over(skb, sender);
    }
    let ports = [transport.destination, transport.source];
    let ends = (header.destination, header.source);
    reset::write(skb, &cause.for_sender(back, ends, ports))?;
    Ok(Action::Redirect(skb.redirect(uplink)))
}

/// Judges the flow of a packet of the host anew, as [`judge_from_vm`] does.
#[inline(never)]
pub fn judge_from_host<A: Family>(skb: Skb, interface: &Interface) -> Packed {
    Packed::new(judge_packet_from_host::<A>(skb, interface))
}

#[inline(always)]
fn judge_packet_from_host<A: Family>(
    skb: Skb,
    interface: &Interface,
) -> Result<Judged, DropReason> {
    let header = A::header(skb)?;
    let transport = parse::transport(skb, &header)?;
    let key = conntrack::key_from_host(interface, &header, &transport);
    Ok(judge(&key, interface).unwrap_or(Judged::NoFlow))
}

/// Tells both ends of a connection whose flow a packet of the host just ended, as [`end_from_vm`] does.
#[inline(always)]
pub fn end_from_host<A: Family>(skb: Skb, reason: u64) -> Packed {
    let reason = DropReason::from_number(reason as u32).unwrap_or(DropReason::Unsolicited);
    let told = maps::interface_of(skb).and_then(|interface| {
        let slot = interface.slot;
        tell_from_host::<A>(skb, interface, reason)
            .inspect(|_| maps::count_drop(Dropped { slot, reason }))
    });
    Packed::of(told)
}

#[inline(always)]
fn tell_from_host<A: Family>(
    skb: Skb,
    interface: &Interface,
    reason: DropReason,
) -> Result<Action, DropReason> {
    let header = A::header(skb)?;
    let transport = parse::transport(skb, &header)?;
    let cause = Cause::read(skb, &header, &transport);
    let ended = maps::scratch_ended::<A>().ok_or(reason)?;
    // Where it had a way out, it was no flow of the host's.
    if ended.uplink != 0 || !cause.is_segment() {
        return Err(reason);
    }
    let (host, guest) = (header.source, header.destination);
    let there = skb.window::<12>(0)?.words::<0, 3>();
    let ports = [transport.source, transport.destination];
    reset::write(skb, &cause.for_receiver(there, (host, guest), ports))?;
    if !cause.is_answered() {
        return Ok(Action::Next);
    }
    skb.set_mark(maps::mark());
    skb.send_copy(interface.ifindex);
    let back = skb.window::<12>(0)?.swapped_macs();
    let ports = [transport.destination, transport.source];
    reset::write(skb, &cause.for_sender(back, (guest, host), ports))?;
    Ok(Action::Redirect(skb.receive(interface.ifindex)))
}

/// Whether a marked frame is one by which [`crate::to_vm`] tells the host something in the guest's name: a reset, or an ICMP
/// error.
#[inline(never)]
pub fn tells_host(skb: Skb) -> bool {
    let ethertype = skb
        .window::<14>(0)
        .map(|ethernet| u16::from_be_bytes(ethernet.two::<12>()));
    match ethertype {
        Ok(ethertype::IPV4) => tells::<[u8; 4]>(skb),
        Ok(ethertype::IPV6) => tells::<[u8; 16]>(skb),
        Ok(_) | Err(_) => false,
    }
}

#[inline(always)]
fn tells<A: Family>(skb: Skb) -> bool {
    let Ok(header) = A::header(skb) else {
        return false;
    };
    match parse::transport(skb, &header) {
        Ok(transport) => matches!(transport.kind, Kind::Segment(flags) if flags & RST != 0),
        Err(reason) => matches!(reason, DropReason::IcmpError),
    }
}
