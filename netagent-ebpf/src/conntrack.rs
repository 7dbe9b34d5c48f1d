//! Flows: found, kept alive, judged anew, removed.

use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, FlowKey, FlowState, Opener, Place, Sender};
use netagent_common::policy::{Route, RouteKind};
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel;
use crate::maps::{self, StateWord};
use crate::parse::{Header, Kind, Transport};
use crate::{listener, nat, policy, publish, relay, vm_to_vm};

/// Notes a packet: the flow's state follows it, and its life starts anew; true where that was written down, once
/// in a tick.
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
    let now = kernel::jiffies() as u32;
    let is_due = now.wrapping_sub(flow.last_seen_jiffies) >= maps::jiffies_of_tick();
    if is_due {
        flow.last_seen_jiffies = now;
        flow.last_seen_ns = kernel::now_ns();
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

/// Key of the flow of a packet of the host.
#[inline(always)]
pub fn key_from_host<A: Copy>(
    interface: &Interface,
    header: &Header<A>,
    transport: &Transport,
) -> FlowKey<A> {
    FlowKey {
        instance: interface.instance,
        guest: header.destination,
        remote: header.source,
        guest_port: match transport.kind {
            Kind::Segment(_) | Kind::Datagram => transport.destination,
            Kind::EchoRequest | Kind::EchoReply => [0; 2],
        },
        remote_port: transport.source,
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

/// What counts the changes of routes and policy, read before them: what changes while a flow is judged is looked at when
/// it is judged next.
#[derive(Clone, Copy)]
pub struct Generations {
    /// Of the routes.
    pub routes: u32,
    /// Of the policy.
    pub policy: u32,
}

impl Generations {
    /// Those in force.
    #[inline(always)]
    pub fn now(interface: &Interface) -> Self {
        Self {
            routes: maps::route_generation(),
            policy: maps::policy_generation(interface),
        }
    }
}

/// What became of a flow that was judged anew; in one register.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Again(u32);

impl Again {
    /// None stands for the packet, or not on its way: it may open another.
    pub const NONE: Self = Self(0);
    /// It may go on, by the way of today's routes.
    pub const GOES_ON: Self = Self(u32::MAX);
    /// It is there still, and its way is no longer its.
    const OVER: Self = Self(u32::MAX - 1);
    /// It is one between guests, and to be judged as that.
    const BETWEEN_GUESTS: Self = Self(u32::MAX - 2);
    /// It goes through a relay, and is to be judged as such.
    const BY_RELAY: Self = Self(u32::MAX - 3);

    /// Why it may not go on, where that is so.
    #[inline(always)]
    pub fn forbidden(self) -> Option<DropReason> {
        match self {
            Self::NONE | Self::GOES_ON | Self::OVER | Self::BETWEEN_GUESTS | Self::BY_RELAY => None,
            Self(number) => Some(DropReason::from_number(number).unwrap_or(DropReason::Malformed)),
        }
    }
}

/// Judges a flow that is there by the policy and the routes in force. One that may not go on is there still, to be ended;
/// one whose way is no longer its is removed.
#[inline(always)]
pub fn revalidate<A: Family>(key: &FlowKey<A>, interface: &Interface) -> Again {
    let generations = Generations::now(interface);
    let mut again = judge_flow(key, interface, generations);
    if again == Again::BETWEEN_GUESTS {
        again = judge_between_guests(key, interface, generations);
    }
    or_forgotten(key, interface, again)
}

/// As [`revalidate`], where the flow may be the near half of one that goes through a relay: elsewhere none stands for the
/// packet then. One more function below this one is more than each caller of the other could bear.
#[inline(always)]
pub fn revalidate_relayed<A: Family>(key: &FlowKey<A>, interface: &Interface) -> Again {
    let generations = Generations::now(interface);
    let mut again = judge_flow(key, interface, generations);
    if again == Again::BY_RELAY {
        again = judge_by_relay(key, interface, generations);
    }
    or_forgotten(key, interface, again)
}

/// As [`revalidate`], but what may not go on is removed too.
#[inline(always)]
pub fn keep_or_forget<A: Family>(key: &FlowKey<A>, interface: &Interface) -> Again {
    let again = revalidate(key, interface);
    if again.forbidden().is_some() {
        forget_found(key, interface);
    }
    again
}

/// A flow whose way is no longer its is removed.
#[inline(always)]
fn or_forgotten<A: Family>(key: &FlowKey<A>, interface: &Interface, again: Again) -> Again {
    if again == Again::OVER {
        forget_found(key, interface);
        return Again::NONE;
    }
    again
}

#[inline(always)]
fn forget_found<A: Family>(key: &FlowKey<A>, interface: &Interface) {
    if let Some(flow) = maps::flow(key) {
        forget(key, flow, interface);
    }
}

/// A function of its own so that what it needs of the stack is free again when the flow is removed.
#[inline(never)]
fn judge_flow<A: Family>(
    key: &FlowKey<A>,
    interface: &Interface,
    generations: Generations,
) -> Again {
    let Some(flow) = maps::flow(key) else {
        return Again::NONE;
    };
    let judged = if flow.generation == interface.generation {
        if Opener::is_between_guests(flow.opener) {
            return Again::BETWEEN_GUESTS;
        }
        if Opener::is_by_relay(flow.opener) {
            return Again::BY_RELAY;
        }
        judge_again(key, flow, interface)
    } else {
        Ok(false)
    };
    noted(flow, judged, generations)
}

/// What becomes of a flow that was judged by these generations; false where its way is no longer its.
#[inline(always)]
fn noted<A>(
    flow: &mut Flow<A>,
    judged: Result<bool, DropReason>,
    generations: Generations,
) -> Again {
    match judged {
        Ok(true) => {
            flow.policy_generation = generations.policy;
            flow.route_generation = generations.routes;
            Again::GOES_ON
        }
        // The uplink may be down for a moment, and the agent about to write the policy: the flow keeps its port, and its
        // packets are dropped by `open`, which finds neither.
        Err(DropReason::NoRoute | DropReason::PolicyMissing) => Again::NONE,
        Ok(false) => Again::OVER,
        Err(reason) => Again(reason as u32),
    }
}

/// A function of its own beside [`judge_flow`], whose stack it would not fit into.
#[inline(never)]
fn judge_between_guests<A: Family>(
    key: &FlowKey<A>,
    interface: &Interface,
    generations: Generations,
) -> Again {
    let Some(flow) = maps::flow(key) else {
        return Again::NONE;
    };
    if !is_instances(key.remote) {
        return Again::OVER;
    }
    let judged = if flow.opener == Opener::GuestToGuest as u8 {
        policy::judge_any(interface)
            .and_then(|()| vm_to_vm::judge_guest(interface, key).map(|_| ()))
    } else {
        vm_to_vm::judge_peer_again(interface, key)
    };
    noted(flow, judged.map(|()| true), generations)
}

/// As [`judge_between_guests`], of the near half of a flow that goes through a relay.
#[inline(never)]
fn judge_by_relay<A: Family>(
    key: &FlowKey<A>,
    interface: &Interface,
    generations: Generations,
) -> Again {
    let Some(flow) = maps::flow(key) else {
        return Again::NONE;
    };
    let judged = if flow.opener == Opener::GuestByRelay as u8 {
        relay::judge_guest(interface, key).map(|()| true)
    } else {
        relay::judge_peer_again(interface, key)
    };
    noted(flow, judged, generations)
}

/// False where the flow's way is no longer its.
#[inline(always)]
fn judge_again<A: Family>(
    key: &FlowKey<A>,
    flow: &mut Flow<A>,
    interface: &Interface,
) -> Result<bool, DropReason> {
    let opener = Opener::from_number(flow.opener);
    if flow.uplink == 0 {
        if opener == Opener::GuestToListener {
            policy::judge_any(interface)?;
            listener::judge(interface, key)?;
        } else {
            publish::judge_host_again(interface, key, flow)?;
        }
        return Ok(is_host::<A>(interface, key.remote));
    }
    match opener {
        Opener::GuestToHost => {
            judge_guest_to_host(interface, key)?;
            Ok(flow.nat_address == key.remote)
        }
        Opener::GuestAtHost => publish::judge_again(interface, key, flow).map(|()| true),
        // Judged by `judge_between_guests` or `judge_by_relay`, or above.
        Opener::GuestToGuest
        | Opener::GuestAtGuest
        | Opener::GuestToListener
        | Opener::GuestByRelay
        | Opener::AtGuestByRelay => Ok(false),
        Opener::World | Opener::Host => match way_again(key.remote)? {
            Some(route) => {
                set_way(flow, route);
                publish::judge_again(interface, key, flow).map(|()| true)
            }
            None => Ok(false),
        },
        Opener::Guest | Opener::Stranger => {
            policy::judge_any(interface)?;
            let Some(route) = way_again(key.remote)? else {
                return Ok(false);
            };
            policy::judge(interface, key)?;
            Ok(follow_route(flow, interface, route))
        }
    }
}

/// The way to an address to which there was one; `None` where guests no longer go there.
///
/// # Errors
/// [`DropReason::NoRoute`] where there is none at this moment.
#[inline(always)]
fn way_again<A: Family>(remote: A) -> Result<Option<&'static Route<A>>, DropReason> {
    match uplink_route(remote) {
        Ok(route) => Ok(Some(route)),
        Err(DropReason::NoRoute) => Err(DropReason::NoRoute),
        Err(_) => Ok(None),
    }
}

/// Whether a guest may go on with a flow to an address of the host: one of its ports is published for it, and the lists
/// say nothing against the address as it is written (P-3).
///
/// # Errors
/// Why not.
#[inline(always)]
fn judge_guest_to_host<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
) -> Result<(), DropReason> {
    policy::judge_any(interface)?;
    publish::judge_guest(key)?;
    policy::judge(interface, key)
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

/// Whether the route map says that an address is an instance's.
#[inline(always)]
pub fn is_instances<A: Family>(address: A) -> bool {
    maps::route(address)
        .is_some_and(|route| RouteKind::from_number(route.kind) == RouteKind::Instance)
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
