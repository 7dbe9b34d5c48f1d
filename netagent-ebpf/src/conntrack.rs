//! Flows: found, opened, kept alive.

use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, FlowKey, FlowState, LAST_SEEN_STEP_NS, Origin, Place, Sender};
use netagent_common::policy::{Route, RouteKind};
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::{self, Skb};
use crate::maps::{self, InsertError, StateWord};
use crate::parse::{self, Header, Kind, Transport};
use crate::{mapping, nat, ports};

/// Notes a packet: the flow's state follows it, and its life starts anew; true where that was written down, about
/// once a second.
#[inline(always)]
pub fn touch<A>(flow: &mut Flow<A>, sender: Sender, kind: Kind) -> bool {
    let flags = match kind {
        Kind::Segment(flags) => Some(flags),
        Kind::Datagram | Kind::EchoRequest | Kind::EchoReply => None,
    };
    let state = FlowState::from_number(flow.state);
    let origin = Origin::from_number(flow.origin);
    if state.after(origin, sender, flags) != state {
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
        word.state().after(word.origin(), sender, flags)
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
const STATE_TRIES: u32 = 4;

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

/// Opens the flow of a packet of the guest that [`crate::from_vm`] found well-formed and not spoofed, or judges
/// one anew that was opened under another policy or other routes.
///
/// # Errors
/// The reason why the guest may not have it.
#[inline(never)]
pub fn open<A: Family>(skb: Skb, interface: &Interface) -> Result<(), DropReason> {
    let header = A::header(skb)?;
    let transport = parse::transport(skb, &header)?;
    let key = &key_from_vm(interface, &header, &transport);
    // Read before the routes: if they change meanwhile, the flow is looked at again.
    let route_generation = maps::route_generation();
    if revalidate(key, interface, route_generation) {
        return Ok(());
    }
    // A reply to nothing that the host asked opens nothing.
    if transport.kind == Kind::EchoReply {
        return Err(DropReason::UnknownProtocol);
    }
    let route = uplink_route(key.remote)?;
    check_limit(interface)?;
    let nat_port = match mapping::claim(skb, key, &route.source, interface) {
        Some(nat_port) => nat_port,
        None => ports::claim(skb, key, &route.source)?,
    };
    write(interface, key, route, (route_generation, nat_port))
}

/// Closing flows are no open ones, but as many as an instance may have open are all that it may have of them: a guest
/// makes them as fast as it can send resets, and the table is everybody's.
#[inline(always)]
fn check_limit(interface: &Interface) -> Result<(), DropReason> {
    let (open, limit) = (
        maps::open_flows(interface.instance),
        u64::from(interface.flow_limit),
    );
    let closing = maps::closing_flows(interface.instance);
    if open >= limit || open.saturating_add(closing) >= 2 * limit {
        return Err(DropReason::FlowLimit);
    }
    Ok(())
}

/// Whether a flow that is there may go on; it goes the way of today's routes, or is removed.
#[inline(never)]
fn revalidate<A: Family>(key: &FlowKey<A>, interface: &Interface, route_generation: u32) -> bool {
    let Some(flow) = maps::flow(key) else {
        return false;
    };
    let may_go_on = flow.generation == interface.generation
        && if flow.uplink == 0 {
            is_host::<A>(interface, key.remote)
        } else {
            follow_route(key, flow)
        };
    if may_go_on {
        flow.policy_generation = interface.policy_generation;
        flow.route_generation = route_generation;
    } else {
        forget(key, flow, interface);
    }
    may_go_on
}

/// Sends a flow by the way of today's routes, where its address stays the same.
#[inline(always)]
fn follow_route<A: Family>(key: &FlowKey<A>, flow: &mut Flow<A>) -> bool {
    match uplink_route(key.remote) {
        Ok(route) if route.source == flow.nat_address => {
            flow.uplink = route.ifindex;
            flow.mtu = route.mtu;
            flow.next_hop = route.next_hop;
            true
        }
        Ok(_) | Err(_) => false,
    }
}

/// The way to an address, where guests may go there.
#[inline(always)]
fn uplink_route<A: Family>(remote: A) -> Result<&'static Route<A>, DropReason> {
    let route = maps::route(remote).ok_or(DropReason::NoRoute)?;
    RouteKind::from_number(route.kind).judge()?;
    Ok(route)
}

/// An address of the host: one in the route map, or the gateway's.
#[inline(always)]
pub fn is_host<A: Family>(interface: &Interface, address: A) -> bool {
    A::is_gateway(interface, address)
        || maps::route(address)
            .is_some_and(|route| RouteKind::from_number(route.kind) == RouteKind::Host)
}

/// Writes the flow whose port was claimed: a reverse entry without a flow is the only thing that a race or a full
/// table can leave, and the collection pass finds it.
///
/// Claiming and writing are functions of their own so that their stacks lie in the same place.
#[inline(never)]
fn write<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    route: &Route<A>,
    (route_generation, nat_port): (u32, u16),
) -> Result<(), DropReason> {
    let flow = Flow {
        last_seen_ns: kernel::now_ns(),
        slot: interface.slot,
        generation: interface.generation,
        policy_generation: interface.policy_generation,
        route_generation,
        uplink: route.ifindex,
        mtu: route.mtu,
        address_difference: A::difference(key.guest, route.source),
        state: FlowState::Opening as u8,
        origin: Origin::Guest as u8,
        nat_port: nat_port.to_be_bytes(),
        next_hop: route.next_hop,
        nat_address: route.source,
        padding: [0; 2],
    };
    let inserted = maps::insert_flow(key, &flow);
    if inserted.is_ok() {
        maps::count_opened(interface.instance);
        return Ok(());
    }
    nat::release(key, &flow);
    match inserted {
        // Another CPU opened the same flow: its port is the one in use.
        Ok(()) | Err(InsertError::Exists) => Ok(()),
        Err(InsertError::Full) => Err(DropReason::FlowTableFull),
    }
}

/// Writes a flow that the world opens by a port that is the guest's already, where the way back is the way by which
/// guests have this address; false where it is not, or the flow is there or has no room.
#[inline(always)]
pub fn write_admitted<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    (nat_address, nat_port): (A, [u8; 2]),
) -> bool {
    let route_generation = maps::route_generation();
    let Ok(route) = uplink_route(key.remote) else {
        return false;
    };
    if route.source != nat_address {
        return false;
    }
    let Some(flow) = maps::scratch_flow::<A>() else {
        return false;
    };
    // Field by field: a flow made at once is made on the stack.
    flow.last_seen_ns = kernel::now_ns();
    flow.slot = interface.slot;
    flow.generation = interface.generation;
    flow.policy_generation = interface.policy_generation;
    flow.route_generation = route_generation;
    flow.uplink = route.ifindex;
    flow.mtu = route.mtu;
    flow.address_difference = A::difference(key.guest, nat_address);
    flow.state = FlowState::Opening as u8;
    flow.origin = Origin::Guest as u8;
    flow.nat_port = nat_port;
    flow.next_hop = route.next_hop;
    flow.nat_address = nat_address;
    flow.padding = [0; 2];
    let is_written = maps::insert_flow(key, flow).is_ok();
    if is_written {
        maps::count_opened(interface.instance);
    }
    is_written
}

/// Opens a flow that the host itself started towards the guest (P-7): it has no way out and no other address.
#[inline(always)]
pub fn open_from_host<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
) -> Result<(), DropReason> {
    if let Some(flow) = maps::flow(key) {
        if flow.generation == interface.generation && flow.uplink == 0 {
            touch(flow, Sender::World, Kind::EchoRequest);
            return Ok(());
        }
        forget(key, flow, interface);
    }
    check_limit(interface)?;
    let flow = Flow {
        last_seen_ns: kernel::now_ns(),
        slot: interface.slot,
        generation: interface.generation,
        policy_generation: interface.policy_generation,
        route_generation: maps::route_generation(),
        uplink: 0,
        mtu: interface.mtu,
        address_difference: 0,
        state: FlowState::Established as u8,
        origin: Origin::Host as u8,
        nat_port: [0; 2],
        next_hop: A::ZERO,
        nat_address: A::ZERO,
        padding: [0; 2],
    };
    match maps::insert_flow(key, &flow) {
        Ok(()) => {
            maps::count_opened(interface.instance);
            Ok(())
        }
        Err(InsertError::Exists) => Ok(()),
        Err(InsertError::Full) => Err(DropReason::FlowTableFull),
    }
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
