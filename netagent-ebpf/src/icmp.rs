//! ICMP errors of the datapath's own, for packets that it drops: no stack of the kernel sees those. To a guest they
//! come from its gateway, to the world from the address that it asked.

use netagent_common::drop::DropReason;
use netagent_common::limit::ICMP_ERRORS_PER_SECOND;
use netagent_common::net::tcp_flag;
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::Skb;
use crate::parse::{self, Header, Kind, Transport};
use crate::verdict::{Action, Dropped, Judged, Packed};
use crate::{conntrack, fragment, maps, services};

/// What an error says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Larger than this MTU, bytes.
    TooBig(u16),
    /// The hop limit ran out.
    TimeExceeded,
    /// It may not go there.
    Prohibited,
    /// No route leads there.
    NoRoute,
}

/// An error to be written in place of the packet that it is about.
pub struct Report<A> {
    /// What it says.
    pub message: Message,
    /// Who says it.
    pub from: A,
    /// Whom it tells.
    pub to: A,
}

/// Whether a guest is told why its packet was dropped.
#[inline(always)]
pub const fn is_told(reason: DropReason) -> bool {
    use DropReason::{
        AlwaysDenied, FlowLimit, FlowTableFull, GatewayClosed, HostAddress, NoRoute, NotUplink,
        OtherInstance, SnatAddress, SnatExhausted, TooBig, TtlExpired,
    };
    matches!(
        reason,
        TooBig
            | TtlExpired
            | NoRoute
            | AlwaysDenied
            | HostAddress
            | OtherInstance
            | NotUplink
            | GatewayClosed
            | SnatAddress
            | SnatExhausted
            | FlowLimit
            | FlowTableFull
    )
}

#[inline(always)]
const fn message(reason: DropReason, mtu: u32) -> Message {
    if matches!(reason, DropReason::TooBig) {
        Message::TooBig(if mtu > 0xffff { 0xffff } else { mtu as u16 })
    } else if matches!(reason, DropReason::TtlExpired) {
        Message::TimeExceeded
    } else if matches!(reason, DropReason::NoRoute | DropReason::SnatAddress) {
        Message::NoRoute
    } else {
        Message::Prohibited
    }
}

/// Sends the guest the error, where there is one to be sent. The drop is counted here then, else by whoever ends the
/// frame.
#[inline(always)]
pub fn tell_guest<A: Family>(skb: Skb, reason: u64) -> Packed {
    let Some(reason) = DropReason::from_number(reason as u32) else {
        return Packed::refused(DropReason::Malformed);
    };
    if let Ok(interface) = maps::interface_of(skb)
        && let Some(action) = guest::<A>(skb, interface, reason)
    {
        let slot = interface.slot;
        maps::count_drop(Dropped { slot, reason });
        return Packed::of(Ok(action));
    }
    Packed::refused(reason)
}

#[inline(always)]
fn guest<A: Family>(skb: Skb, interface: &Interface, reason: DropReason) -> Option<Action> {
    let (header, transport) = asked::<A>(skb)?;
    if !A::is_unicast(header.destination) {
        return None;
    }
    let from = A::gateway(interface)?;
    let mut mtu = 0;
    if reason == DropReason::TooBig {
        let key = conntrack::key_from_vm(interface, &header, &transport);
        mtu = maps::flow(&key)?.mtu;
    }
    pay(interface)?;
    let report = Report {
        message: message(reason, mtu),
        from,
        to: header.source,
    };
    A::report(skb, &report).ok()?;
    skb.set_mark(maps::mark());
    Some(Action::Redirect(skb.redirect(interface.ifindex)))
}

/// Counts the drop of a packet of the world that cannot go on to the guest, and tells who sent it, by the router
/// that handed it over.
#[inline(never)]
pub fn tell_world<A: Family>(skb: Skb, slot: u32, reason: DropReason) -> Packed {
    let dropped = Dropped { slot, reason };
    let told = world::<A>(skb, slot, reason);
    if told.is_some() {
        maps::count_drop(dropped);
    }
    Packed::with_slot(told.map(Judged::Done).ok_or(dropped))
}

#[inline(always)]
fn world<A: Family>(skb: Skb, slot: u32, reason: DropReason) -> Option<Action> {
    let (header, _) = asked::<A>(skb)?;
    let interface = maps::record(slot).ok()?;
    pay(interface)?;
    let report = Report {
        message: message(reason, interface.mtu),
        from: header.destination,
        to: header.source,
    };
    A::report(skb, &report).ok()?;
    Some(Action::Redirect(skb.redirect(skb.ifindex())))
}

/// The packet, where it is one that errors are sent about (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4): the first
/// fragment, no error itself, and no reset, which is an end already.
#[inline(always)]
fn asked<A: Family>(skb: Skb) -> Option<(Header<A>, Transport)> {
    let (header, transport) = match A::header(skb) {
        Ok(header) if !header.first_fragment => (header, parse::transport(skb, &header).ok()?),
        Ok(_) | Err(DropReason::Fragment) => {
            let fragment = A::fragment(skb).ok()?;
            let transport = fragment::transport(skb, &fragment).ok()?;
            let protocol = fragment.protocol;
            (
                Header {
                    protocol,
                    ..fragment.header
                },
                transport,
            )
        }
        Err(_) => return None,
    };
    match transport.kind {
        Kind::Segment(flags) if flags & tcp_flag::RST != 0 => None,
        Kind::Segment(_) | Kind::Datagram | Kind::EchoRequest | Kind::EchoReply => {
            Some((header, transport))
        }
    }
}

#[inline(always)]
fn pay(interface: &Interface) -> Option<()> {
    let used = maps::used(interface.slot)?;
    services::pay(&mut used.icmp_errors_ns, 1, ICMP_ERRORS_PER_SECOND).ok()
}
