//! The short way of a reply: what the reverse entry of an established flow knows of it, so that the flow itself, which
//! lies in cold memory where there are many, is looked up once in some seconds only.

use netagent_common::flow::{Flow, FlowState};
use netagent_common::nat::{Reverse, ReverseKey};
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::parse::Kind;
use crate::{kernel, maps};

/// A digest of a key. Nobody gains by two keys that have the same one: it tells apart what an element held before and
/// after it became another flow's, within the nanoseconds in which it is read.
#[inline(always)]
pub fn tag<A: Family>(key: &ReverseKey<A>) -> u32 {
    let [high, low] = key.remote_port;
    let [nat_high, nat_low] = key.nat_port;
    let ports = u32::from_ne_bytes([high, low, nat_high, nat_low]);
    let addresses = A::last_four(key.remote) ^ A::last_four(key.nat_address).rotate_left(16);
    addresses.wrapping_mul(0x9e37_79b1) ^ ports ^ key.protocol
}

/// The interface to which a packet of the world goes where it is one that changes nothing of a flow that was found
/// established and in force in this tick. What is read here is of use where [`guest`] finds the same entry.
#[inline(always)]
pub fn recall<A: Family>(reverse: &Reverse<A>, kind: Kind) -> Option<&'static Interface> {
    if kind.is_eventful() || reverse.seen != kernel::tick() {
        return None;
    }
    let interface = maps::record(reverse.slot).ok()?;
    let is_in_force = reverse.generation == interface.generation
        && reverse.policy_generation == interface.policy_generation;
    is_in_force.then_some(interface)
}

/// The guest's address and port, where the entry is this interface's, and was that of the key with this tag until now.
#[inline(always)]
pub fn guest<A: Family>(
    tag: u32,
    reverse: &Reverse<A>,
    interface: &Interface,
) -> Option<(A, [u8; 2])> {
    let holder = maps::holder(reverse);
    let is_its = holder.instance == interface.instance && holder.tag == tag;
    is_its.then_some((holder.guest, holder.guest_port))
}

/// Notes that the flow of an entry, which leads to the world, is in force, where it is established, and that it is no
/// longer where it is not; `tag` is that of the entry's key.
#[inline(always)]
pub fn remember<A: Family>(tag: u32, reverse: &mut Reverse<A>, flow: &Flow<A>) {
    if reverse.tag != tag {
        return;
    }
    if FlowState::from_number(flow.state) != FlowState::Established {
        // A connection that was opened anew is established by a packet that changes nothing else.
        if reverse.generation != 0 {
            reverse.generation = 0;
        }
        return;
    }
    reverse.slot = flow.slot;
    reverse.policy_generation = flow.policy_generation;
    reverse.generation = flow.generation;
    reverse.seen = kernel::tick();
}
