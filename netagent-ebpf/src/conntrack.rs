//! Flows: found, opened, kept alive.

use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, FlowKey, FlowState, LAST_SEEN_STEP_NS, Opener, Sender};
use netagent_common::policy::{Route, RouteKind};
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::{self, Skb};
use crate::maps::{self, InsertError};
use crate::nat;
use crate::parse::{self, Header, Kind, Transport};
use crate::publish;

/// Notes a packet: the flow's state follows it, and its life starts anew; true where that was written down, about
/// once a second.
#[inline(always)]
pub fn touch<A>(flow: &mut Flow<A>, sender: Sender, kind: Kind) -> bool {
    let state = FlowState::from_number(flow.state);
    let is_inbound = Opener::is_inbound(flow.opener);
    let next = match kind {
        Kind::Segment(flags) if is_inbound => state.after_inbound_segment(sender, flags),
        Kind::Segment(flags) => state.after_segment(sender, flags),
        _ if is_inbound => state.after_inbound_datagram(sender),
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
    let (way, opener) = way_for_guest(interface, key)?;
    if maps::open_flows(interface.instance) >= interface.flow_limit.into() {
        return Err(DropReason::FlowLimit);
    }
    let nat_port = nat::claim(skb, key, &way.nat_address)?;
    write(interface, key, &way, (route_generation, nat_port, opener))
}

/// Where the packets of a flow leave, and the address that stands for the guest.
#[derive(Clone, Copy)]
pub struct Way<A> {
    /// Interface index of the way out; not 0.
    pub uplink: u32,
    /// MTU of the way out, bytes.
    pub mtu: u32,
    /// Neighbour on the way; all zeroes where the other end itself is the neighbour.
    pub next_hop: A,
    /// The address under which the world knows the flow.
    pub nat_address: A,
}

impl<A: Family> Way<A> {
    /// A way on which packets turn round at the uplink.
    #[inline(always)]
    pub const fn round(interface: &Interface, nat_address: A) -> Self {
        Self {
            uplink: interface.ifindex,
            mtu: interface.mtu,
            next_hop: A::ZERO,
            nat_address,
        }
    }
}

/// The way of a flow that the guest opens: an address of the host it reaches where a port of it is published, under
/// that address.
#[inline(always)]
fn way_for_guest<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
) -> Result<(Way<A>, Opener), DropReason> {
    match uplink_route(key.remote) {
        Ok(route) => {
            let way = Way {
                uplink: route.ifindex,
                mtu: route.mtu,
                next_hop: route.next_hop,
                nat_address: route.source,
            };
            Ok((way, Opener::Guest))
        }
        Err(DropReason::HostAddress) => {
            publish::judge_guest(key)?;
            Ok((Way::round(interface, key.remote), Opener::GuestToHost))
        }
        Err(reason) => Err(reason),
    }
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
            opener => match uplink_route(key.remote) {
                Ok(route) if Opener::is_inbound(opener as u8) => {
                    set_way(flow, route);
                    publish::may_go_on(interface, key, flow)
                }
                Ok(route) => follow_route(flow, route),
                // The uplink may be down for a moment: the flow keeps its port, and its packets are dropped by
                // `open`, which finds no route either.
                Err(DropReason::NoRoute) => return false,
                Err(_) => false,
            },
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
/// new flows no longer get and the host still has, as long as the flow leaves by the same uplink.
#[inline(always)]
fn follow_route<A: Family>(flow: &mut Flow<A>, route: &Route<A>) -> bool {
    let keeps_address = route.source == flow.nat_address
        || (route.ifindex == flow.uplink && is_the_hosts(flow.nat_address));
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

/// Whether the route map says that an address is the host's.
#[inline(always)]
fn is_the_hosts<A: Family>(address: A) -> bool {
    maps::route(address).is_some_and(|route| RouteKind::from_number(route.kind) == RouteKind::Host)
}

/// Writes the flow whose port was claimed: a reverse entry without a flow is the only thing that a race or a full
/// table can leave, and the collection pass finds it.
///
/// Claiming and writing are functions of their own so that their stacks lie in the same place.
#[inline(never)]
pub fn write<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    way: &Way<A>,
    (route_generation, nat_port, opener): (u32, u16, Opener),
) -> Result<(), DropReason> {
    let flow = Flow {
        last_seen_ns: kernel::now_ns(),
        slot: interface.slot,
        generation: interface.generation,
        policy_generation: interface.policy_generation,
        route_generation,
        uplink: way.uplink,
        mtu: way.mtu,
        address_difference: A::difference(key.guest, way.nat_address),
        state: FlowState::Opening as u8,
        opener: opener as u8,
        nat_port: nat_port.to_be_bytes(),
        next_hop: way.next_hop,
        nat_address: way.nat_address,
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

/// Opens a flow that the host itself started towards the guest (P-7): it has no way out. `asked` is the published
/// address and port that led it there; all zeroes where it went to the guest's own address.
#[inline(never)]
pub fn open_from_host<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    asked: &(A, [u8; 2]),
) -> Result<(), DropReason> {
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
        state: FlowState::Opening as u8,
        opener: Opener::Host as u8,
        nat_port: asked.1,
        next_hop: A::ZERO,
        nat_address: asked.0,
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
