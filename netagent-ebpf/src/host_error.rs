//! ICMP errors of the host's stack about what a guest sent to one of its listeners: that nobody listens, above all.

use netagent_common::drop::DropReason;
use netagent_common::flow::{FlowKey, Opener};
use netagent_common::net::ethertype;
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::Skb;
use crate::packet::Origin;
use crate::parse::transport_offset;
use crate::verdict::{Action, Dropped};
use crate::{limit, maps};

/// Ethernet, IP, ICMP, the quoted IP header and the ports behind it.
const REACH: usize = 14 + 40 + 8 + 40 + 8;

/// Judges a packet of the host once more that [`crate::to_vm`] dropped because it is an error.
///
/// # Errors
/// `dropped`, where it is none or not about a packet that the guest may send; [`DropReason::BandwidthIn`] and
/// [`DropReason::PacketRate`].
#[inline(always)]
pub fn judge(skb: Skb, interface: &Interface, dropped: Dropped) -> Result<Action, Dropped> {
    if dropped.reason != DropReason::IcmpError {
        return Err(dropped);
    }
    if is_about_a_listener(skb, interface) == 0 {
        return Err(dropped);
    }
    limit::to_vm(skb, interface, (1, skb.len()))
        .map(|()| Action::Next)
        .map_err(|reason| Dropped { reason, ..dropped })
}

/// 1 where it is about a packet of a flow that the guest has with a listener; in one register, as the answers of all
/// functions that are not inlined.
#[inline(never)]
fn is_about_a_listener(skb: Skb, interface: &Interface) -> u64 {
    skb.reach::<REACH>(Origin::Vm);
    let ethertype = skb
        .window::<14>(0)
        .map(|ethernet| u16::from_be_bytes(ethernet.two::<12>()));
    let is_about = match ethertype {
        Ok(ethertype::IPV4) => is_about::<[u8; 4]>(skb, interface),
        Ok(ethertype::IPV6) => is_about::<[u8; 16]>(skb, interface),
        Ok(_) | Err(_) => None,
    };
    is_about.map_or(0, u64::from)
}

/// The error comes from the address that was asked, and goes to the guest that asked. The host's own errors quote what
/// came in, so the flow is the quoted packet's own.
#[inline(always)]
fn is_about<A: Family>(skb: Skb, interface: &Interface) -> Option<bool> {
    let header = A::header(skb).ok()?;
    let kind = skb.window::<1>(transport_offset::<A>()).ok()?.byte::<0>();
    let quoted = A::quoted(skb, header.payload_len).ok()?;
    let is_answer = quoted.source == header.destination && quoted.destination == header.source;
    if !A::is_report(kind) || header.first_fragment || !is_answer {
        return None;
    }
    let [guest_port, remote_port, ..] = quoted.transport;
    let key = FlowKey {
        instance: interface.instance,
        guest: quoted.source,
        remote: quoted.destination,
        guest_port,
        remote_port,
        protocol: quoted.protocol.into(),
    };
    let flow = maps::flow(&key)?;
    Some(
        flow.opener == Opener::GuestToListener as u8
            && flow.generation == interface.generation
            && flow.policy_generation == interface.policy_generation,
    )
}
