//! What is sent to a guest: frames that netagent itself redirected, pings of the host, and what it may reach.

use netagent_common::drop::DropReason;
use netagent_common::flow::FlowKey;
use netagent_common::net::ethertype;
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::Skb;
use crate::packet::Origin;
use crate::parse::{self, Kind};
use crate::verdict::{Action, Dropped};
use crate::{conntrack, maps, opening, publish};

/// Judges a frame that leaves by a TAP.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn judge(skb: Skb) -> Result<Action, Dropped> {
    let interface = maps::interface(skb.ifindex())?;
    let mark = skb.mark();
    skb.set_mark(0);
    // The mark is never 0; a program loaded without one passes nothing.
    if mark != maps::mark() || mark == 0 {
        from_host(skb, interface).map_err(|reason| Dropped {
            slot: interface.slot,
            reason,
        })?;
        maps::count_to_vm(interface.slot, (1, skb.len()));
    }
    Ok(Action::Next)
}

/// Only what the host made itself may be the host's: frames without a device that they came in by.
#[inline(always)]
fn from_host(skb: Skb, interface: &Interface) -> Result<(), DropReason> {
    if skb.ingress_ifindex() != 0 {
        return Err(DropReason::NotRedirected);
    }
    if skb.vlan_present() {
        return Err(DropReason::Vlan);
    }
    skb.reach::<{ 14 + 40 + 8 }>(Origin::Vm);
    match u16::from_be_bytes(skb.window::<14>(0)?.two::<12>()) {
        ethertype::IPV4 => packet::<[u8; 4]>(skb, interface),
        ethertype::IPV6 => packet::<[u8; 16]>(skb, interface),
        _ => Err(DropReason::Unsolicited),
    }
}

#[inline(always)]
fn packet<A: Family>(skb: Skb, interface: &Interface) -> Result<(), DropReason> {
    let header = A::header(skb)?;
    let transport = parse::transport(skb, &header)?;
    if Some(header.destination) != A::guest(interface)
        || !conntrack::is_host::<A>(interface, header.source)
    {
        return Err(DropReason::Unsolicited);
    }
    let key = FlowKey {
        instance: interface.instance,
        guest: header.destination,
        remote: header.source,
        guest_port: match transport.kind {
            Kind::Segment(_) | Kind::Datagram => transport.destination,
            Kind::EchoRequest | Kind::EchoReply => [0; 2],
        },
        remote_port: transport.source,
        protocol: header.protocol.into(),
    };
    if transport.kind == Kind::EchoReply {
        return Err(DropReason::Unsolicited);
    }
    if conntrack::touch_from_host(interface, &key, transport.kind) {
        return Ok(());
    }
    let asked = match transport.kind {
        Kind::EchoRequest => (A::ZERO, [0; 2]),
        Kind::Segment(_) | Kind::Datagram | Kind::EchoReply => {
            publish::judge_host(skb, interface, &key)?
        }
    };
    opening::open_from_host(interface, &key, &asked)
}
