//! Flows: found, kept alive, judged anew, removed.

use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, FlowKey, FlowState, LAST_SEEN_STEP_NS, Opener, Place, Sender};
use netagent_common::policy::{Route, RouteKind};
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel;
use crate::maps::{self, StateWord};
use crate::parse::{Header, Kind, Transport};
use crate::{nat, publish};

/// Notes a packet: the flow's state follows it, and its life starts anew; true where that was written down, about
/// once a second.
#[inline(always)]
pub fn touch<A>(flow: &mut Flow<A>, sender: Sender, kind: Kind) -> bool {
    let flags = match kind {
        Kind::Segment(flags) => Some(flags),
        Kind::Datagram | Kind::EchoRequest | Kind::EchoReply => None,
    };
    let state = FlowState::from_number(flow.state);
    let opener = Opener::from_number(flow.opener);
    if state.may_change(opener, sender, flags) {
        advance(flow, sender, flags.map_or(NO_FLAGS, u32::from));
    }
    let now = kernel::now_ns();
    let is_due = now.wrapping_sub(flow.last_seen_ns) > LAST_SEEN_STEP_NS;
    if is_due {
        flow.last_seen_ns = now;
    }
    is_due
}

/// Stands for the flags of what has none.
const NO_FLAGS: u32 = 1 << 8;

/// Moves a flow on by a packet, and from one count of its instance to another.
///
/// Every change of a state is an exchange of the word that it is in, so each is counted once, whatever two CPUs see at
/// the same time. A count is wrong only where an element of the map became another flow's, with the same port and in
/// the same state, between the reading of the word and its exchange; it is right again when the instance is started
/// anew.
#[inline(never)]
fn advance<A>(flow: &mut Flow<A>, sender: Sender, flags: u32) {
    let flags = (flags != NO_FLAGS).then_some(flags as u8);
    let moved = exchange_state(flow, |word| {
        word.state().after(word.opener(), sender, flags)
    });
    // One of an earlier life of the slot is in no count.
    if let Some((from, to)) = moved
        && from != to
        && let Ok(interface) = maps::record(flow.slot)
        && interface.generation == flow.generation
    {
        maps::count_moved(interface.instance, (from, to));
    }
}

/// Tries to change a state that other CPUs change as well; each failure is a change by one of them.
const STATE_TRIES: u32 = 2;

/// Changes a flow's state, and says from which count to which; `None` where it stays.
#[inline(always)]
fn exchange_state<A>(
    flow: &mut Flow<A>,
    next: impl Fn(StateWord) -> FlowState,
) -> Option<(Option<Place>, Option<Place>)> {
    for _ in 0..STATE_TRIES {
        let word = maps::state_word(flow);
        let (state, next) = (word.state(), next(word));
        if state == next {
            return None;
        }
        if maps::exchange_state(flow, word, next) {
            return Some((state.place(), next.place()));
        }
    }
    None
}

/// Takes a flow out of the count that it is in; whoever does removes it. False where another CPU did, or the flow
/// changes so fast that it must be tried again. No `instance` is given for a flow of an earlier life of its slot,
/// which is in no count.
#[inline(always)]
pub fn retire<A>(flow: &mut Flow<A>, instance: Option<u32>) -> bool {
    let moved = exchange_state(flow, |_| FlowState::Removed);
    if let (Some(moved), Some(instance)) = (moved, instance) {
        maps::count_moved(instance, moved);
    }
    moved.is_some()
}

/// The key of the flow to which a packet of the guest belongs.
#[inline(always)]
pub fn key_from_vm<A: Copy>(
    interface: &Interface,
    header: &Header<A>,
    transport: &Transport,
) -> FlowKey<A> {
    FlowKey {
        instance: interface.instance,
        guest: header.source,
        remote: header.destination,
        guest_port: transport.source,
        remote_port: transport.destination,
        protocol: header.protocol.into(),
    }
}

/// Whether the flow stands as it is: opened in this life of the instance, under the policy and the routes in
/// force.
#[inline(always)]
pub fn is_current<A>(flow: &Flow<A>, interface: &Interface) -> bool {
    flow.generation == interface.generation
        && flow.policy_generation == interface.policy_generation
        && flow.route_generation == maps::route_generation()
}

/// Whether a flow that is there may go on; it goes the way of today's routes, or is removed.
#[inline(never)]
pub fn revalidate<A: Family>(
    key: &FlowKey<A>,
    interface: &Interface,
    route_generation: u32,
) -> bool {
    let Some(flow) = maps::flow(key) else {
        return false;
    };
    let may_go_on = flow.generation == interface.generation
        && match Opener::from_number(flow.opener) {
            _ if flow.uplink == 0 => {
                is_host::<A>(interface, key.remote) && publish::may_host_go_on(interface, key, flow)
            }
            Opener::GuestToHost => {
                flow.nat_address == key.remote && publish::judge_guest(key).is_ok()
            }
            Opener::GuestAtHost => publish::may_go_on(interface, key, flow),
            opener @ (Opener::Guest | Opener::World | Opener::Host | Opener::Stranger) => {
                match uplink_route(key.remote) {
                    Ok(route) if Opener::is_at_a_port(opener as u8) => {
                        set_way(flow, route);
                        publish::may_go_on(interface, key, flow)
                    }
                    Ok(route) => follow_route(flow, interface, route),
                    // The uplink may be down for a moment: the flow keeps its port, and its packets are dropped by
                    // `open`, which finds no route either.
                    Err(DropReason::NoRoute) => return false,
                    Err(_) => false,
                }
            }
        };
    if may_go_on {
        flow.policy_generation = interface.policy_generation;
        flow.route_generation = route_generation;
    } else {
        forget(key, flow, interface);
    }
    may_go_on
}

/// Sends a flow by the way of today's routes, where its address stays the same: the one of this way, or one that
/// new flows no longer get and the host still has, as long as the flow leaves by the same uplink. An address of the
/// instance's own it keeps on every way, as long as the host has it.
#[inline(always)]
fn follow_route<A: Family>(flow: &mut Flow<A>, interface: &Interface, route: &Route<A>) -> bool {
    let snat = A::snat(interface);
    let keeps_address = if snat == A::ZERO {
        route.source == flow.nat_address
            || (route.ifindex == flow.uplink && is_the_hosts(flow.nat_address))
    } else {
        snat == flow.nat_address && is_the_hosts(snat)
    };
    if keeps_address {
        set_way(flow, route);
    }
    keeps_address
}

#[inline(always)]
fn set_way<A: Family>(flow: &mut Flow<A>, route: &Route<A>) {
    flow.uplink = route.ifindex;
    flow.mtu = route.mtu;
    flow.next_hop = route.next_hop;
}

/// The way to an address, where guests may go there.
#[inline(always)]
pub fn uplink_route<A: Family>(remote: A) -> Result<&'static Route<A>, DropReason> {
    let route = maps::route(remote).ok_or(DropReason::NoRoute)?;
    RouteKind::from_number(route.kind).judge()?;
    Ok(route)
}

/// An address of the host: one in the route map, or the gateway's.
#[inline(always)]
pub fn is_host<A: Family>(interface: &Interface, address: A) -> bool {
    A::is_gateway(interface, address) || is_the_hosts(address)
}

/// Whether the route map says that an address is the host's. Loopback is not: nobody reaches it from outside.
#[inline(always)]
pub fn is_the_hosts<A: Family>(address: A) -> bool {
    maps::route(address).is_some_and(|route| RouteKind::from_number(route.kind) == RouteKind::Host)
}

/// Notes a packet of the host in the flow that it has with the guest; false where there is none in force.
#[inline(always)]
pub fn touch_from_host<A: Family>(interface: &Interface, key: &FlowKey<A>, kind: Kind) -> bool {
    let Some(flow) = maps::flow(key) else {
        return false;
    };
    let goes_on = flow.uplink == 0
        && flow.generation == interface.generation
        && flow.policy_generation == interface.policy_generation;
    if goes_on {
        touch(flow, Sender::World, kind);
    } else {
        forget(key, flow, interface);
    }
    goes_on
}

/// Removes a flow and its port. One of an earlier life of the slot is not in this one's count.
#[inline(never)]
pub fn forget<A: Family>(key: &FlowKey<A>, flow: &mut Flow<A>, interface: &Interface) {
    let is_counted = flow.generation == interface.generation;
    if retire(flow, is_counted.then_some(interface.instance)) {
        remove(key, flow);
    }
}

/// Removes a flow that was retired, and its port.
#[inline(always)]
pub fn remove<A: Family>(key: &FlowKey<A>, flow: &Flow<A>) -> bool {
    // Copied: the element goes with the removal.
    let flow = *flow;
    let is_removed = maps::remove_flow(key);
    if is_removed && flow.uplink != 0 {
        nat::release(key, &flow);
    }
    is_removed
}
