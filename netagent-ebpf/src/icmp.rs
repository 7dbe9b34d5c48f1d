//! ICMP errors of the datapath's own, for packets that it drops: no stack of the kernel sees those. To a guest they
//! come from its gateway, to the world from the address that it asked.

use netagent_common::drop::DropReason;
use netagent_common::limit::ICMP_ERRORS_PER_SECOND;
use netagent_common::net::tcp_flag;
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::Skb;
use crate::parse::{self, Header, Kind, Transport};
use crate::reset::Cause;
use crate::verdict::{Action, Dropped, Judged, Packed};
use crate::{conntrack, fragment, maps, relay, reset, services};

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
        AlwaysDenied, DeniedCidr, DenyAll, DnsBypass, FlowLimit, FlowTableFull, GatewayClosed,
        HostAddress, NoRoute, NotAllowed, NotUplink, OtherInstance, PolicyMissing, RelayDown,
        SnatAddress, SnatExhausted, TooBig, TtlExpired,
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
            | DenyAll
            | DeniedCidr
            | NotAllowed
            | DnsBypass
            | PolicyMissing
            | RelayDown
    )
}

/// Whether it is the instance's policy that says no: a connection is refused then, not unreachable.
#[inline(always)]
const fn is_policy(reason: DropReason) -> bool {
    use DropReason::{DeniedCidr, DenyAll, DnsBypass, NotAllowed};
    // Not where the policy is about to be written: what is open stays open then.
    matches!(reason, DenyAll | DeniedCidr | NotAllowed | DnsBypass)
}

#[inline(always)]
const fn message(reason: DropReason, mtu: u32) -> Message {
    if matches!(reason, DropReason::TooBig) {
        Message::TooBig(if mtu > 0xffff { 0xffff } else { mtu as u16 })
    } else if matches!(reason, DropReason::TtlExpired) {
        Message::TimeExceeded
    } else if matches!(
        reason,
        DropReason::NoRoute | DropReason::SnatAddress | DropReason::RelayDown
    ) {
        Message::NoRoute
    } else {
        Message::Prohibited
    }
}

/// Sends the guest the error, where there is one to be sent. The number holds that of the reason, and above it the MTU for
/// which the packet was too big. The drop is counted here then, else by whoever ends the
/// frame.
#[inline(always)]
pub fn tell_guest<A: Family>(skb: Skb, told: u64) -> Packed {
    let Some(reason) = DropReason::from_number(told as u32) else {
        return Packed::refused(DropReason::Malformed);
    };
    if let Ok(interface) = maps::interface_of(skb)
        && let Some(action) = guest::<A>(skb, interface, (reason, (told >> 32) as u32))
    {
        let slot = interface.slot;
        maps::count_drop(Dropped { slot, reason });
        return Packed::of(Ok(action));
    }
    Packed::refused(reason)
}

#[inline(always)]
fn guest<A: Family>(
    skb: Skb,
    interface: &Interface,
    (reason, mtu): (DropReason, u32),
) -> Option<Action> {
    let (header, transport) = asked::<A>(skb)?;
    if !A::is_unicast(header.destination) {
        return None;
    }
    let from = relay::reporter(interface, &header)?;
    if reason == DropReason::TooBig && mtu == 0 {
        return None;
    }
    pay(interface)?;
    let cause = Cause::read(skb, &header, &transport);
    if is_policy(reason) && !header.first_fragment && cause.is_answered() {
        refuse(skb, &header, &transport, &cause).ok()?;
    } else {
        let report = Report {
            message: message(reason, mtu),
            from,
            to: header.source,
        };
        A::report(skb, &report).ok()?;
    }
    skb.set_mark(maps::mark());
    Some(Action::Redirect(skb.redirect(interface.ifindex)))
}

/// The MTU for which a packet of the guest was too big, as a number; 0 where it is not known. A function of its own beside
/// [`tell_guest`], whose stack it would not fit into.
#[inline(always)]
pub fn narrowest<A: Family>(skb: Skb) -> Packed {
    let mtu = asked::<A>(skb).and_then(|(header, transport)| {
        let interface = maps::interface_of(skb).ok()?;
        relay::mtu(interface, header.destination).or_else(|| {
            let key = conntrack::key_from_vm(interface, &header, &transport);
            maps::flow(&key).map(|flow| flow.mtu)
        })
    });
    Packed::from_number(mtu.map_or(0, u64::from))
}

/// Resets the connection to which a segment of the guest belongs.
#[inline(always)]
fn refuse<A: Family>(
    skb: Skb,
    header: &Header<A>,
    transport: &Transport,
    cause: &Cause,
) -> Result<(), DropReason> {
    let macs = skb.window::<12>(0)?.swapped_macs();
    let ports = [transport.destination, transport.source];
    let ends = (header.destination, header.source);
    reset::write(skb, &cause.for_sender(macs, ends, ports))
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

/// Counts the drop of a packet of the host that cannot go on to the guest, and tells the host's stack, in the guest's name:
/// [`crate::from_vm`] knows it by its mark.
#[inline(never)]
pub fn tell_host<A: Family>(skb: Skb, interface: &Interface, reason: DropReason) -> Packed {
    let Some(action) = host::<A>(skb, interface, reason) else {
        return Packed::refused(reason);
    };
    let slot = interface.slot;
    maps::count_drop(Dropped { slot, reason });
    Packed::of(Ok(action))
}

#[inline(always)]
fn host<A: Family>(skb: Skb, interface: &Interface, reason: DropReason) -> Option<Action> {
    let (header, _) = asked::<A>(skb)?;
    pay(interface)?;
    let report = Report {
        message: message(reason, interface.mtu),
        from: header.destination,
        to: header.source,
    };
    A::report(skb, &report).ok()?;
    skb.set_mark(maps::mark());
    Some(Action::Redirect(skb.receive(interface.ifindex)))
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
