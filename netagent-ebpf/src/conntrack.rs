//! Flows: found, opened, kept alive.

use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, FlowKey, FlowState, LAST_SEEN_STEP_NS, Origin, Sender};
use netagent_common::policy::{Route, RouteKind};
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::{self, Skb};
use crate::maps::{self, InsertError};
use crate::nat;
use crate::parse::{self, Header, Kind, Transport};

/// Notes a packet: the flow's state follows it, and its life starts anew; true where that was written down, about
/// once a second.
#[inline(always)]
pub fn touch<A>(flow: &mut Flow<A>, sender: Sender, kind: Kind) -> bool {
    let state = FlowState::from_number(flow.state);
    let next = match kind {
        Kind::Segment(flags) => state.after_segment(sender, flags),
        Kind::Datagram | Kind::EchoRequest | Kind::EchoReply => state.after_datagram(sender),
    } as u8;
    if next != flow.state {
        flow.state = next;
    }
    let now = kernel::now_ns();
    let is_due = now.wrapping_sub(flow.last_seen_ns) > LAST_SEEN_STEP_NS;
    if is_due {
        flow.last_seen_ns = now;
    }
    is_due
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
    let key = key_from_vm(interface, &header, &transport);
    open_flow(skb, interface, &key, transport.kind)
}

/// Opens the flow with this key, for a packet of this kind.
///
/// # Errors
/// As of [`open`].
#[inline(always)]
pub fn open_flow<A: Family>(
    skb: Skb,
    interface: &Interface,
    key: &FlowKey<A>,
    kind: Kind,
) -> Result<(), DropReason> {
    // Read before the routes: if they change meanwhile, the flow is looked at again.
    let route_generation = maps::route_generation();
    if revalidate(key, interface, route_generation) {
        return Ok(());
    }
    // A reply to nothing that the host asked opens nothing.
    if kind == Kind::EchoReply {
        return Err(DropReason::UnknownProtocol);
    }
    let route = uplink_route(key.remote)?;
    if maps::open_flows(interface.instance) >= interface.flow_limit.into() {
        return Err(DropReason::FlowLimit);
    }
    let nat_port = nat::claim(skb, key, &route.source)?;
    write(interface, key, route, (route_generation, nat_port))
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
    if maps::open_flows(interface.instance) >= interface.flow_limit.into() {
        return Err(DropReason::FlowLimit);
    }
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
pub fn forget<A: Family>(key: &FlowKey<A>, flow: &Flow<A>, interface: &Interface) {
    // Copied: the element goes with the removal.
    let flow = *flow;
    if !maps::remove_flow(key) {
        return;
    }
    if flow.generation == interface.generation {
        maps::count_removed(interface.instance);
    }
    if flow.uplink != 0 {
        nat::release(key, &flow);
    }
}
