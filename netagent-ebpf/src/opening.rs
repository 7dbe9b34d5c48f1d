//! Flows opened: by whom, on what way, under which address and port.

use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, FlowKey, FlowState, Opener};
use netagent_common::policy::{Route, policy_flag};
use netagent_common::vm::Interface;

use crate::apart::Apart;
use crate::conntrack::{Generations, is_the_hosts, key_from_vm, uplink_route};
use crate::family::Family;
use crate::fragment::First;
use crate::kernel::{self, Skb};
use crate::maps::{self, InsertError};
use crate::parse::{self, Kind};
use crate::relay::FoundBy;
use crate::verdict::{Judged, Packed};
use crate::{listener, mapping, nat, policy, ports, publish, relay, resume, vm_to_vm};

/// How the flow of a packet of the guest is found: [`Whole`] packets and first fragments have their ports in different
/// places.
pub trait Parsed<A> {
    /// Whether such a packet may open a flow to a listener of the host, which answers whole packets alone.
    const REACHES_LISTENERS: bool;

    /// The key of its flow, and its kind.
    ///
    /// # Errors
    /// The reason why it belongs to no flow.
    fn parse(skb: Skb, interface: &Interface) -> Result<(FlowKey<A>, Kind), DropReason>;

    /// Judges its flow, opened under another policy or other routes, anew, and ends it where it may not go on:
    /// [`Judged::Opened`] where it may, [`Judged::NoFlow`] where there is none.
    fn resume(skb: Skb, interface: &Interface) -> Packed
    where
        A: Apart;

    /// The same, where the interface has a relay.
    #[inline(always)]
    fn resume_relayed(skb: Skb) -> Packed
    where
        A: Apart,
    {
        let judged = A::judge_relayed(skb, FoundBy::Outbound as u64).forgotten();
        match judged.forbidden() {
            Some(reason) => Self::end(skb, reason),
            None => judged,
        }
    }

    /// Ends its flow, which may not go on for the reason with this number.
    fn end(skb: Skb, reason: u64) -> Packed
    where
        A: Apart;

    /// Opens its flow.
    fn open(skb: Skb) -> Packed
    where
        A: Apart;
}

/// A packet that is no fragment.
pub struct Whole;

impl<A: Family> Parsed<A> for Whole {
    const REACHES_LISTENERS: bool = true;

    #[inline(always)]
    fn parse(skb: Skb, interface: &Interface) -> Result<(FlowKey<A>, Kind), DropReason> {
        let header = A::header(skb)?;
        let transport = parse::transport(skb, &header)?;
        let key = key_from_vm(interface, &header, &transport);
        Ok((key, transport.kind))
    }

    #[inline(always)]
    fn resume(skb: Skb, interface: &Interface) -> Packed
    where
        A: Apart,
    {
        let judged = resume::judge_from_vm::<A>(skb, interface).forgotten();
        match judged.forbidden() {
            Some(reason) => <Self as Parsed<A>>::end(skb, reason),
            None => judged,
        }
    }

    #[inline(always)]
    fn end(skb: Skb, reason: u64) -> Packed
    where
        A: Apart,
    {
        A::end_from_vm(skb, reason)
    }

    #[inline(always)]
    fn open(skb: Skb) -> Packed
    where
        A: Apart,
    {
        A::open(skb)
    }
}

/// Makes sure that a flow stands for a packet of the guest that [`crate::from_vm`] found well-formed and not spoofed:
/// judges the one that is there anew, or opens one.
///
/// [`Judged::Opened`], or the reason why the guest may not have it.
#[inline(always)]
pub fn provide<A: Apart, P: Parsed<A>>(skb: Skb, interface: &Interface) -> Packed {
    let judged = if interface.policy_flags & policy_flag::RELAYED != 0 {
        P::resume_relayed(skb)
    } else {
        P::resume(skb, interface)
    }
    .forgotten();
    if judged.is_no_flow() {
        P::open(skb)
    } else {
        judged
    }
}

/// Opens a flow by a packet that is no fragment.
#[inline(always)]
pub fn open_by_packet<A: Family>(skb: Skb) -> Packed {
    opened::<A, Whole>(skb)
}

/// Opens a flow by a first fragment.
#[inline(always)]
pub fn open_by_fragment<A: Family>(skb: Skb) -> Packed {
    opened::<A, First>(skb)
}

#[inline(always)]
fn opened<A: Family, P: Parsed<A>>(skb: Skb) -> Packed {
    let opened = maps::interface_of(skb).and_then(|interface| open::<A, P>(skb, interface));
    Packed::new(opened.map(|()| Judged::Opened))
}

#[inline(always)]
fn open<A: Family, P: Parsed<A>>(skb: Skb, interface: &Interface) -> Result<(), DropReason> {
    let mut opening = Opening::<A>::new();
    let is_relayed = interface.policy_flags & policy_flag::RELAYED != 0;
    let prepared = if is_relayed {
        prepare_by_relay::<A, P>(skb, interface, &mut opening)
    } else {
        prepare::<A, P>(skb, interface, &mut opening)
    };
    match prepared {
        Err(DropReason::OtherInstance) if !is_relayed => {
            prepare_for_guest(interface, &mut opening)?;
        }
        Err(DropReason::GatewayClosed | DropReason::HostAddress) if P::REACHES_LISTENERS => {
            let Opening {
                key, generations, ..
            } = &opening;
            listener::judge_opening(interface, key)?;
            if is_relayed {
                return open_by_relay(interface, key, *generations);
            }
            let of_listener = (A::ZERO, [0; 2]);
            return open_with_host::<A, { Opener::GuestToListener as u8 }>(
                interface,
                key,
                &of_listener,
                *generations,
            );
        }
        prepared => prepared?,
    }
    let Opening { key, way, .. } = &opening;
    if is_relayed {
        return open_by_relay(interface, key, opening.generations);
    }
    let opener = Opener::from_number(opening.opener as u8);
    let mapped = match opener {
        Opener::Guest => mapping::claim(skb, key, &way.nat_address, interface),
        // Under its own address the guest has its own port, and an entry that is there is of the same flow.
        Opener::GuestToGuest => match publish::claim(key, &way.nat_address, key.guest_port) {
            publish::CLAIMED | publish::TAKEN => Some(u16::from_be_bytes(key.guest_port)),
            _ => return Err(DropReason::FlowTableFull),
        },
        Opener::GuestToHost
        | Opener::World
        | Opener::GuestAtHost
        | Opener::Host
        | Opener::Stranger
        | Opener::GuestAtGuest
        | Opener::GuestToListener
        | Opener::GuestByRelay
        | Opener::AtGuestByRelay => None,
    };
    let nat_port = match mapped {
        Some(nat_port) => nat_port,
        None => ports::claim(skb, key, &way.nat_address)?,
    };
    write(interface, key, way, (opening.generations, nat_port, opener))
}

/// Opens the near half of a flow that goes through a relay, where that is there.
#[inline(always)]
fn open_by_relay<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    generations: Generations,
) -> Result<(), DropReason> {
    relay::leg(interface)?;
    let own = (key.guest, key.guest_port);
    open_with_host::<A, { Opener::GuestByRelay as u8 }>(interface, key, &own, generations)
}

/// A flow that is about to be opened.
struct Opening<A> {
    key: FlowKey<A>,
    way: Way<A>,
    generations: Generations,
    /// An [`Opener`] as a number.
    opener: u32,
}

impl<A: Family> Opening<A> {
    #[inline(always)]
    const fn new() -> Self {
        Self {
            key: FlowKey {
                instance: 0,
                guest: A::ZERO,
                remote: A::ZERO,
                guest_port: [0; 2],
                remote_port: [0; 2],
                protocol: 0,
            },
            way: Way {
                uplink: 0,
                mtu: 0,
                next_hop: A::ZERO,
                nat_address: A::ZERO,
            },
            generations: Generations {
                routes: 0,
                policy: 0,
            },
            opener: 0,
        }
    }
}

/// Parses and asks the policy: a function of its own so that what it needs of the stack is free again afterwards.
#[inline(never)]
fn prepare<A: Family, P: Parsed<A>>(
    skb: Skb,
    interface: &Interface,
    opening: &mut Opening<A>,
) -> Result<(), DropReason> {
    opening.generations = Generations::now(interface);
    let (key, kind) = P::parse(skb, interface)?;
    // A reply to nothing that the host asked opens nothing.
    if kind == Kind::EchoReply {
        return Err(DropReason::UnknownProtocol);
    }
    opening.key = key;
    let (way, opener) = way_for_guest(interface, &opening.key)?;
    (opening.way, opening.opener) = (way, opener as u32);
    check_limit(interface)
}

/// As [`prepare`], where the interface has a relay: there is no way to be found.
#[inline(never)]
fn prepare_by_relay<A: Family, P: Parsed<A>>(
    skb: Skb,
    interface: &Interface,
    opening: &mut Opening<A>,
) -> Result<(), DropReason> {
    opening.generations = Generations::now(interface);
    let (key, kind) = P::parse(skb, interface)?;
    if kind == Kind::EchoReply {
        return Err(DropReason::UnknownProtocol);
    }
    opening.key = key;
    relay::judge_guest_opening(interface, &opening.key)
}

/// The way to another guest, of a flow that leads to one: a function of its own beside [`prepare`], whose stack it would not
/// fit into.
#[inline(never)]
fn prepare_for_guest<A: Family>(
    interface: &Interface,
    opening: &mut Opening<A>,
) -> Result<(), DropReason> {
    let peer = vm_to_vm::judge_guest(interface, &opening.key)?;
    opening.way = Way::to_guest(interface, peer, opening.key.guest);
    opening.opener = Opener::GuestToGuest as u32;
    check_limit(interface)
}

/// Where the packets of a flow leave, and the address that stands for the guest.
#[derive(Clone, Copy)]
pub struct Way<A> {
    /// Interface index of the way out; 0 for a flow with the host itself.
    pub uplink: u32,
    /// MTU of the way out, bytes.
    pub mtu: u32,
    /// Neighbour on the way; all zeroes where the other end itself is the neighbour.
    pub next_hop: A,
    /// The address under which the world knows the flow.
    pub nat_address: A,
}

impl<A: Family> Way<A> {
    /// The way of a route, under this address.
    #[inline(always)]
    pub const fn by(route: &Route<A>, nat_address: A) -> Self {
        Self {
            uplink: route.ifindex,
            mtu: route.mtu,
            next_hop: route.next_hop,
            nat_address,
        }
    }

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

    /// A way to another guest of the account, which sees the guest's own address.
    #[inline(always)]
    pub const fn to_guest(interface: &Interface, peer: &Interface, guest: A) -> Self {
        let mtu = if peer.mtu < interface.mtu {
            peer.mtu
        } else {
            interface.mtu
        };
        Self {
            mtu,
            ..Self::round(interface, guest)
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
    policy::judge_any(interface)?;
    if A::is_gateway(interface, key.remote) {
        return Err(DropReason::GatewayClosed);
    }
    match uplink_route(key.remote) {
        Ok(route) => {
            policy::judge(interface, key)?;
            let nat_address = nat_address(interface, route)?;
            Ok((Way::by(route, nat_address), Opener::Guest))
        }
        Err(DropReason::HostAddress) => {
            publish::judge_guest(key)?;
            policy::judge(interface, key)?;
            Ok((Way::round(interface, key.remote), Opener::GuestToHost))
        }
        Err(DropReason::NoRoute) => {
            policy::judge(interface, key)?;
            Err(DropReason::NoRoute)
        }
        Err(reason) => Err(reason),
    }
}

/// The address under which the guest leaves by a route: the instance's own where it has one, and no other.
///
/// # Errors
/// [`DropReason::SnatAddress`] where the host does not have it.
#[inline(always)]
fn nat_address<A: Family>(interface: &Interface, route: &Route<A>) -> Result<A, DropReason> {
    let snat = A::snat(interface);
    if snat == A::ZERO {
        Ok(route.source)
    } else if is_the_hosts(snat) {
        Ok(snat)
    } else {
        Err(DropReason::SnatAddress)
    }
}

#[inline(always)]
fn check_limit(interface: &Interface) -> Result<(), DropReason> {
    if has_room(interface, interface.flow_limit.into()) {
        Ok(())
    } else {
        Err(DropReason::FlowLimit)
    }
}

/// Whether the instance may have one more flow by this limit. Closing flows are no open ones, but as many as may be open
/// are all that there may be of them: whoever opens and resets makes them as fast as it can send, and the table is
/// everybody's.
#[inline(always)]
pub fn has_room(interface: &Interface, limit: u64) -> bool {
    let open = maps::open_flows(interface.instance);
    let closing = maps::closing_flows(interface.instance);
    open < limit && open.saturating_add(closing) < 2 * limit
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
    made: (Generations, u16, Opener),
) -> Result<(), DropReason> {
    let Some(flow) = made_of(interface, key, way, made) else {
        return Err(DropReason::HelperFailed);
    };
    let inserted = insert(interface, key, flow);
    if inserted != Ok(()) {
        nat::release(key, flow);
    }
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
    // Through a relay nobody passes who was not asked, or knocked at a published port.
    if interface.policy_flags & policy_flag::LEG != 0 {
        return false;
    }
    let generations = Generations::now(interface);
    let made = (generations, u16::from_be_bytes(nat_port), Opener::Stranger);
    let Ok(route) = uplink_route(key.remote) else {
        return false;
    };
    let judged = policy::judge_any(interface).and_then(|()| policy::judge(interface, key));
    if judged.is_err() {
        return false;
    }
    if self::nat_address(interface, route) != Ok(nat_address) {
        return false;
    }
    made_of(interface, key, &Way::by(route, nat_address), made)
        .is_some_and(|flow| insert(interface, key, flow).is_ok())
}

/// A flow that was opened just now, made where this CPU makes flows: field by field, for one that is made at once is made
/// on the stack.
#[inline(always)]
fn made_of<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    way: &Way<A>,
    (generations, nat_port, opener): (Generations, u16, Opener),
) -> Option<&'static mut Flow<A>> {
    let flow = maps::scratch_flow::<A>()?;
    flow.last_seen_ns = kernel::now_ns();
    flow.slot = interface.slot;
    flow.generation = interface.generation;
    flow.policy_generation = generations.policy;
    flow.route_generation = generations.routes;
    flow.uplink = way.uplink;
    flow.mtu = way.mtu;
    flow.address_difference = A::difference(key.guest, way.nat_address);
    flow.state = FlowState::Opening as u8;
    flow.opener = opener as u8;
    flow.nat_port = nat_port.to_be_bytes();
    flow.next_hop = way.next_hop;
    flow.nat_address = way.nat_address;
    flow.last_seen_jiffies = kernel::jiffies() as u32;
    flow.padding = 0;
    Some(flow)
}

/// Inserts and counts a flow.
#[inline(always)]
fn insert<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    flow: &Flow<A>,
) -> Result<(), InsertError> {
    maps::insert_flow(key, flow)?;
    maps::count_opened(interface.instance);
    Ok(())
}

/// Opens a flow that the host itself started towards the guest (P-7). `asked` is the published address and port that led
/// it there; all zeroes where it went to the guest's own address.
#[inline(always)]
pub fn open_from_host<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    (asked, generations): (&(A, [u8; 2]), Generations),
) -> Result<(), DropReason> {
    open_with_host::<A, { Opener::Host as u8 }>(interface, key, asked, generations)
}

/// Opens the near half of a flow that others opened at a port of a guest, which goes through a relay. A quarter of the
/// guest's flows stays its own.
#[inline(always)]
pub fn open_at_client<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    generations: Generations,
) -> Result<(), DropReason> {
    if !has_room(interface, u64::from(interface.flow_limit) * 3 / 4) {
        return Err(DropReason::FlowLimit);
    }
    let own = (key.guest, key.guest_port);
    open_with_host::<A, { Opener::AtGuestByRelay as u8 }>(interface, key, &own, generations)
}

/// Opens a flow between the guest and the host itself, or a relay: no port is claimed for it. One copy for each opener has room on the stack
/// for what else is there.
#[inline(never)]
fn open_with_host<A: Family, const OPENER: u8>(
    interface: &Interface,
    key: &FlowKey<A>,
    asked: &(A, [u8; 2]),
    generations: Generations,
) -> Result<(), DropReason> {
    check_limit(interface)?;
    let way = Way {
        uplink: 0,
        ..Way::round(interface, asked.0)
    };
    let opener = Opener::from_number(OPENER);
    let made = (generations, u16::from_be_bytes(asked.1), opener);
    let flow = made_of(interface, key, &way, made).ok_or(DropReason::HelperFailed)?;
    match insert(interface, key, flow) {
        Ok(()) | Err(InsertError::Exists) => Ok(()),
        Err(InsertError::Full) => Err(DropReason::FlowTableFull),
    }
}
