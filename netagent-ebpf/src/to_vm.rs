//! What is sent to a guest: frames that netagent itself redirected, pings of the host, and what it may reach.

use netagent_common::drop::DropReason;
use netagent_common::flow::Sender;
use netagent_common::net::{GATEWAY_MAC, ethertype};
use netagent_common::policy::policy_flag;
use netagent_common::vm::Interface;

use crate::apart::Apart;
use crate::conntrack::Generations;
use crate::family::Family;
use crate::kernel::Skb;
use crate::packet::Origin;
use crate::parse::{self, Header, Kind, Transport};
use crate::verdict::{Action, Dropped, Judged, Packed};
use crate::{conntrack, host_error, icmp, limit, maps, opening, publish, relay, resume};

/// Judges a frame that leaves by a TAP.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn judge(skb: Skb) -> Result<Action, Dropped> {
    let interface = maps::interface(skb.ifindex())?;
    let is_redirected = maps::is_marked(skb);
    skb.set_mark(0);
    skb.set_no_leg();
    if is_redirected {
        return Ok(Action::Next);
    }
    if interface.policy_flags & policy_flag::RELAYED != 0 && !is_gateways_ping(skb, interface) {
        return by_relay(skb, interface);
    }
    judge_of_host(skb, interface)
}

#[inline(always)]
fn judge_of_host(skb: Skb, interface: &Interface) -> Result<Action, Dropped> {
    from_host(skb, interface)
        .action()
        .map_err(|reason| Dropped {
            slot: interface.slot,
            reason,
        })
        .or_else(|dropped| host_error::judge(skb, interface, dropped))
}

/// What the host sends to a client of a relay goes there as what the world sends does: judged as the leg's.
#[inline(always)]
fn by_relay(skb: Skb, interface: &Interface) -> Result<Action, Dropped> {
    let slot = interface.slot;
    let dropped = |reason| Dropped { slot, reason };
    let leg = relay::leg(interface).map_err(dropped)?;
    skb.set_leg(leg.slot);
    // Whatever is made of the frame goes to the relay, too.
    skb.window::<12>(0)
        .map_err(dropped)?
        .set_macs(leg.guest_mac, GATEWAY_MAC);
    match judge_of_host(skb, leg) {
        Ok(Action::Next) => {
            skb.set_mark(maps::mark());
            Ok(Action::Redirect(skb.redirect(leg.ifindex)))
        }
        judged => judged,
    }
}

/// Whether the host pings the guest from the gateway's own address: that stays between the two.
#[inline(never)]
fn is_gateways_ping(skb: Skb, interface: &Interface) -> bool {
    let ethertype = skb
        .window::<14>(0)
        .map(|ethernet| u16::from_be_bytes(ethernet.two::<12>()));
    match ethertype {
        Ok(ethertype::IPV4) => is_gateways_echo::<[u8; 4]>(skb, interface),
        Ok(ethertype::IPV6) => is_gateways_echo::<[u8; 16]>(skb, interface),
        Ok(_) | Err(_) => false,
    }
}

#[inline(always)]
fn is_gateways_echo<A: Family>(skb: Skb, interface: &Interface) -> bool {
    A::header(skb).is_ok_and(|header| {
        A::is_gateway(interface, header.source)
            && header.protocol == A::ICMP
            && parse::icmp::<A>(skb).is_ok_and(|echo| echo.kind == Kind::EchoRequest)
    })
}

/// Only what the host made itself may be the host's: frames without a device that they came in by.
#[inline(always)]
fn from_host(skb: Skb, interface: &Interface) -> Packed {
    if skb.ingress_ifindex() != 0 {
        return Packed::refused(DropReason::NotRedirected);
    }
    if skb.vlan_present() {
        return Packed::refused(DropReason::Vlan);
    }
    skb.reach::<{ 14 + 40 + 20 }>(Origin::Vm);
    let ethertype = skb
        .window::<14>(0)
        .map(|ethernet| u16::from_be_bytes(ethernet.two::<12>()));
    match ethertype {
        Ok(ethertype::IPV4) => carry_on::<[u8; 4]>(skb, interface),
        Ok(ethertype::IPV6) => carry_on::<[u8; 16]>(skb, interface),
        Ok(_) => Packed::refused(DropReason::Unsolicited),
        Err(reason) => Packed::refused(reason),
    }
}

/// Does what takes a deep stack beside the function that found it out, as [`crate::from_vm`] does.
#[inline(always)]
fn carry_on<A: Apart>(skb: Skb, interface: &Interface) -> Packed {
    let mut judged = packet::<A>(skb, interface);
    if judged.is_done() {
        return judged;
    }
    judged = judged.forgotten();
    if judged.is_stale() {
        judged = resume::judge_from_host::<A>(skb, interface).forgotten();
        if let Some(reason) = judged.forbidden() {
            let told = A::end_from_host(skb, reason).forgotten();
            return match told.refusal() {
                Some(reason) => icmp::tell_host::<A>(skb, interface, reason),
                None => told,
            };
        }
    }
    if judged.is_no_flow() {
        judged = open::<A>(skb, interface).forgotten();
    }
    if !judged.is_opened() {
        return judged;
    }
    judged = packet::<A>(skb, interface).forgotten();
    if judged.is_stale() || judged.is_no_flow() {
        // Its flow was removed, or the policy changed, in this very moment.
        return Packed::refused(DropReason::Unsolicited);
    }
    judged
}

#[inline(never)]
fn packet<A: Family>(skb: Skb, interface: &Interface) -> Packed {
    Packed::new(judge_packet::<A>(skb, interface))
}

/// [`Judged::NoFlow`] where none stands for it, [`Judged::Stale`] where it is to be judged anew.
#[inline(always)]
fn judge_packet<A: Family>(skb: Skb, interface: &Interface) -> Result<Judged, DropReason> {
    let (header, transport) = parsed::<A>(skb, interface)?;
    let key = conntrack::key_from_host(interface, &header, &transport);
    let Some(flow) = maps::flow(&key) else {
        return Ok(Judged::NoFlow);
    };
    if flow.uplink != 0 || !conntrack::is_current(flow, interface) {
        return Ok(Judged::Stale);
    }
    conntrack::touch(flow, Sender::World, transport.kind);
    let on_the_wire = parse::on_the_wire::<A>(skb, &transport);
    limit::to_vm(skb, interface, on_the_wire)?;
    Ok(Judged::Done(Action::Next))
}

/// Nothing but what the host sends to the guest, under an address of its own.
#[inline(always)]
fn parsed<A: Family>(
    skb: Skb,
    interface: &Interface,
) -> Result<(Header<A>, Transport), DropReason> {
    let header = A::header(skb)?;
    let transport = parse::transport(skb, &header)?;
    if transport.kind == Kind::EchoReply
        || Some(header.destination) != A::guest(interface)
        || !conntrack::is_host::<A>(interface, header.source)
    {
        return Err(DropReason::Unsolicited);
    }
    Ok((header, transport))
}

/// Opens the flow of a packet of the host, where it may: [`Judged::Opened`].
#[inline(never)]
fn open<A: Family>(skb: Skb, interface: &Interface) -> Packed {
    Packed::new(judge_opening::<A>(skb, interface).map(|()| Judged::Opened))
}

#[inline(always)]
fn judge_opening<A: Family>(skb: Skb, interface: &Interface) -> Result<(), DropReason> {
    let (header, transport) = parsed::<A>(skb, interface)?;
    let key = conntrack::key_from_host(interface, &header, &transport);
    let generations = Generations::now(interface);
    let asked = match transport.kind {
        Kind::EchoRequest => (A::ZERO, [0; 2]),
        Kind::Segment(_) | Kind::Datagram | Kind::EchoReply => {
            publish::judge_host(skb, interface, &key)?
        }
    };
    opening::open_from_host(interface, &key, (&asked, generations))
}
