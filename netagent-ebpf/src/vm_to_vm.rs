//! Instances of one account that reach each other's addresses (P-12). No address changes on the way: each guest has a flow
//! of its own, under its own address and port, and what one sends turns round to the other.

use netagent_common::drop::DropReason;
use netagent_common::flow::{FlowKey, Opener};
use netagent_common::net::tcp_flag::RST;
use netagent_common::vm::Interface;

use crate::conntrack::{self, Generations};
use crate::family::Family;
use crate::kernel::Skb;
use crate::opening::Way;
use crate::parse::{self, Kind};
use crate::verdict::{Dropped, Judged, Packed};
use crate::{maps, policy, publish};

/// The interface of another instance of the same account that has this address.
///
/// # Errors
/// [`DropReason::OtherInstance`] where there is none.
#[inline(always)]
pub fn peer<A: Family>(
    interface: &Interface,
    address: A,
) -> Result<&'static Interface, DropReason> {
    if interface.account == 0 {
        return Err(DropReason::OtherInstance);
    }
    let slot = maps::guest_slot(address).ok_or(DropReason::OtherInstance)?;
    let Ok(peer) = maps::record(slot) else {
        return Err(DropReason::OtherInstance);
    };
    // The entry may be that of an interface which just went, or came in its place.
    if is_of_one_account(interface, peer)
        && peer.instance != interface.instance
        && A::is_own(peer, address)
    {
        Ok(peer)
    } else {
        Err(DropReason::OtherInstance)
    }
}

/// Whether the guest may have a flow that it opens towards the address of another, and the interface that has it.
///
/// # Errors
/// Why not.
#[inline(always)]
pub fn judge_guest<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
) -> Result<&'static Interface, DropReason> {
    let peer = peer(interface, key.remote)?;
    policy::judge(interface, key)?;
    Ok(peer)
}

/// Whether a flow that another guest opened may go on: it is of the same account still, and in no denied network.
///
/// # Errors
/// Why not.
#[inline(always)]
pub fn judge_peer_again<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
) -> Result<(), DropReason> {
    peer(interface, key.remote)?;
    policy::judge_peer(interface, key.remote)
}

/// Whether a packet that turned round comes from an instance of the receiver's account, of each packet: an address may be
/// another account's by now, and the flow still stand.
#[inline(always)]
pub fn is_from_one_account(skb: Skb, receiver: &Interface) -> bool {
    maps::interface_of(skb).is_ok_and(|sender| is_of_one_account(sender, receiver))
}

#[inline(always)]
fn is_of_one_account(one: &Interface, other: &Interface) -> bool {
    one.account != 0 && one.account == other.account
}

/// What the sender's flow lets through opens the receiver's, in the middle of a connection too; a reset and an answer do
/// not.
#[inline(always)]
#[must_use]
pub const fn may_open(kind: Kind) -> bool {
    match kind {
        Kind::Segment(flags) => flags & RST == 0,
        Kind::Datagram | Kind::EchoRequest => true,
        Kind::EchoReply => false,
    }
}

/// Opens the receiver's flow by a packet that turned round.
#[inline(always)]
pub fn open<A: Family>(skb: Skb) -> Packed {
    Packed::with_slot(open_at_receiver::<A>(skb))
}

#[inline(always)]
fn open_at_receiver<A: Family>(skb: Skb) -> Result<Judged, Dropped> {
    let sender = maps::interface_of(skb).map_err(Dropped::nowhere)?;
    let header = A::header(skb).map_err(Dropped::nowhere)?;
    let transport = parse::transport(skb, &header).map_err(Dropped::nowhere)?;
    let peer = peer(sender, header.destination).map_err(Dropped::nowhere)?;
    let slot = peer.slot;
    let dropped = |reason| Dropped { slot, reason };
    // Whoever was asked answers the flow that is there, and opens none by it: its own policy was not heard.
    if !has_opened(&conntrack::key_from_vm(sender, &header, &transport), sender) {
        return Err(dropped(DropReason::Unsolicited));
    }
    let generations = Generations::now(peer);
    policy::judge_peer(peer, header.source).map_err(dropped)?;
    let key = FlowKey {
        instance: peer.instance,
        guest: header.destination,
        remote: header.source,
        guest_port: transport.destination,
        remote_port: transport.source,
        protocol: header.protocol.into(),
    };
    let way = Way::to_guest(peer, sender, header.destination);
    let made = (generations, Opener::GuestAtGuest);
    publish::write_at_port(peer, &key, (&way, transport.destination), made).map_err(dropped)?;
    Ok(Judged::Opened)
}

/// Whether the guest opened this flow itself.
#[inline(always)]
fn has_opened<A: Family>(key: &FlowKey<A>, interface: &Interface) -> bool {
    maps::flow(key).is_some_and(|flow| {
        flow.generation == interface.generation && flow.opener == Opener::GuestToGuest as u8
    })
}
