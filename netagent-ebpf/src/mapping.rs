//! Endpoint-independent mappings of UDP (RFC 4787, REQ-1): while an instance has few, what one of its ports sends has
//! the same port towards everybody.
#![allow(unsafe_code, reason = "the kernel calls back with a raw pointer")]

use netagent_common::flow::{Flow, FlowKey};
use netagent_common::nat::{ANY_INSTANCE, MAPPING_TRIES, Mapping, MappingKey, ReverseKey};
use netagent_common::net::protocol::UDP;
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::{self, Skb};
use crate::maps::{self, InsertError};
use crate::{conntrack, nat, opening, parse, ports};

/// There is no mapping.
const NONE: u32 = 0;
/// There is one that is of no use, or none can be made: the flow gets a port of its own.
const TAKEN: u32 = 1 << 16;
/// One was made.
const MADE: u32 = 2 << 16;

/// Claims the port of the guest's mapping for a new flow; makes a mapping where there is none and may be one. `None`
/// where the flow is to get a port of its own.
///
/// Looking and making are functions of their own so that their stacks lie in the same place. Their answers are one of
/// the constants above, or a port.
#[inline(always)]
pub fn claim<A: Family>(
    skb: Skb,
    key: &FlowKey<A>,
    nat_address: &A,
    interface: &Interface,
) -> Option<u16> {
    if key.protocol != u32::from(UDP) {
        return None;
    }
    let mut found = existing(skb, key, nat_address, interface.generation);
    if found == NONE && may_map::<A>(key.instance) && make(skb, key, nat_address, interface) == MADE
    {
        found = existing(skb, key, nat_address, interface.generation);
    }
    u16::try_from(found).ok().filter(|port| *port != 0)
}

/// Whether the instance, and all instances together, may have another mapping.
#[inline(always)]
fn may_map<A: Family>(instance: u32) -> bool {
    let (_, count) = maps::nat_ports();
    maps::mappings(instance) < maps::eim_ports() && maps::mapped::<A>() < u64::from(count / 2)
}

/// The guest's mapping, claimed for a flow.
#[inline(never)]
fn existing<A: Family>(skb: Skb, key: &FlowKey<A>, nat_address: &A, generation: u32) -> u32 {
    let Some(mapping) = maps::mapping(&of_guest(key, nat_address)) else {
        return NONE;
    };
    // One of an earlier life of the slot goes with the collection, and leaves nothing to this one.
    if mapping.generation != generation {
        return TAKEN;
    }
    let nat_port = mapping.nat_port;
    let now = kernel::now_s();
    // What counts is the entry of the port; of the guest's own it is known whether that was done in this second.
    if mapping.used_s != now {
        mapping.used_s = now;
        if let Some(mapping) = maps::mapping(&of_port(*nat_address, nat_port)) {
            mapping.used_s = now;
        }
    }
    let reverse_key = nat::key_of_port(key, (*nat_address, nat_port));
    if nat::claim(key, &reverse_key).is_err() {
        return TAKEN;
    }
    if nat::is_the_hosts(skb, &reverse_key) {
        maps::remove_reverse(&reverse_key);
        return TAKEN;
    }
    u16::from_be_bytes(nat_port).into()
}

/// What the tries of one mapping share. It lies on the stack below that of a try: keys are made there.
struct Search<'a, A> {
    skb: Skb,
    flow: &'a FlowKey<A>,
    nat_address: &'a A,
    interface: &'a Interface,
    seed: u32,
    is_made: bool,
}

/// Makes a mapping with a port that is nobody's, as far as the flow's remote is concerned.
#[inline(never)]
fn make<A: Family>(skb: Skb, flow: &FlowKey<A>, nat_address: &A, interface: &Interface) -> u32 {
    let mut search = Search {
        skb,
        flow,
        nat_address,
        interface,
        seed: kernel::random(),
        is_made: false,
    };
    kernel::repeat(MAPPING_TRIES, try_port::<A>, &mut search);
    if search.is_made { MADE } else { TAKEN }
}

/// One try: stops with 1. The port is claimed first, and then it is the guest's.
unsafe extern "C" fn try_port<A: Family>(attempt: u64, search: *mut Search<'_, A>) -> i64 {
    const GO_ON: i64 = 0;
    const STOP: i64 = 1;
    // SAFETY: the kernel passes the search of the function above, which nobody else uses meanwhile.
    let search = unsafe { &mut *search };
    let flow = search.flow;
    let nat_port = ports::candidate(flow, search.seed, attempt as u32).to_be_bytes();
    let mapping = Mapping {
        used_s: kernel::now_s(),
        slot: search.interface.slot,
        generation: search.interface.generation,
        guest: flow.guest,
        guest_port: flow.guest_port,
        nat_port,
    };
    match maps::insert_mapping(&of_port(*search.nat_address, nat_port), &mapping) {
        Ok(()) => {}
        Err(InsertError::Exists) => return GO_ON,
        Err(InsertError::Full) => return STOP,
    }
    if !is_free(search.skb, flow, (search.nat_address, nat_port)) {
        maps::remove_mapping(&of_port(*search.nat_address, nat_port));
        return GO_ON;
    }
    let inserted = maps::insert_mapping(&of_guest(flow, search.nat_address), &mapping);
    if inserted.is_ok() {
        maps::count_mapped::<A>(Some(flow.instance), 1);
    } else {
        maps::remove_mapping(&of_port(*search.nat_address, nat_port));
    }
    // Where another CPU was faster, its mapping is the same guest's.
    search.is_made = inserted != Err(InsertError::Full);
    STOP
}

/// Whether neither another flow to the same remote nor the host has the port.
#[inline(always)]
fn is_free<A: Family>(skb: Skb, flow: &FlowKey<A>, (nat_address, nat_port): (&A, [u8; 2])) -> bool {
    let reverse_key = nat::key_of_port(flow, (*nat_address, nat_port));
    maps::reverse(&reverse_key).is_none() && !nat::is_the_hosts(skb, &reverse_key)
}

/// Whether a port is one that an endpoint-independent mapping gives to another than this flow's guest.
#[inline(always)]
pub fn is_anothers<A: Family>(key: &ReverseKey<A>, flow: &FlowKey<A>) -> bool {
    key.protocol == u32::from(UDP)
        && maps::mapping(&of_port(key.nat_address, key.nat_port)).is_some_and(|mapping| {
            mapping.guest != flow.guest || mapping.guest_port != flow.guest_port
        })
}

/// Notes that the guest sends through its mapping, where the flow has its port by one.
#[inline(always)]
pub fn refresh<A: Family>(key: &FlowKey<A>, flow: &Flow<A>) {
    if key.protocol == u32::from(UDP)
        && let Some(mapping) = maps::mapping(&of_port(flow.nat_address, flow.nat_port))
        && mapping.generation == flow.generation
        && mapping.guest == key.guest
        && mapping.guest_port == key.guest_port
    {
        mapping.used_s = kernel::now_s();
    }
}

/// Opens a flow for a datagram of the world to a port that a mapping gives to a guest; false where it does not. Whoever
/// sends reaches it (endpoint-independent filtering), and takes at most half of what the guest may have open.
#[inline(never)]
pub fn admit<A: Family>(skb: Skb) -> bool {
    let Ok(header) = A::header(skb) else {
        return false;
    };
    // Only UDP has mappings.
    if header.protocol != UDP {
        return false;
    }
    let Ok(transport) = parse::udp(skb, &header) else {
        return false;
    };
    let Some(mapping) = maps::mapping(&of_port(header.destination, transport.destination)) else {
        return false;
    };
    let Ok(interface) = maps::record(mapping.slot) else {
        return false;
    };
    if interface.generation != mapping.generation
        || !opening::has_room(interface, u64::from(interface.flow_limit / 2))
    {
        return false;
    }
    let key = FlowKey {
        instance: interface.instance,
        guest: mapping.guest,
        remote: header.source,
        guest_port: mapping.guest_port,
        remote_port: transport.source,
        protocol: header.protocol.into(),
    };
    let nat = (header.destination, transport.destination);
    if !opening::write_admitted(interface, &key, nat) {
        return false;
    }
    let claimed = nat::claim(&key, &nat::key_of_port(&key, nat));
    if claimed.is_err()
        && let Some(flow) = maps::flow(&key)
        && conntrack::retire(flow, Some(key.instance))
    {
        maps::remove_flow(&key);
    }
    claimed.is_ok()
}

/// Key of the entry that says which port stands for a guest's.
#[inline(always)]
fn of_guest<A: Family>(key: &FlowKey<A>, nat_address: &A) -> MappingKey<A> {
    MappingKey {
        instance: key.instance,
        guest: key.guest,
        nat_address: *nat_address,
        port: key.guest_port,
        reserved: [0; 2],
    }
}

/// Key of the entry that says whose a port is. Zeroes for the guest would be written by a call, which has no stack.
#[inline(always)]
pub fn of_port<A: Family>(nat_address: A, port: [u8; 2]) -> MappingKey<A> {
    MappingKey {
        instance: ANY_INSTANCE,
        guest: nat_address,
        nat_address,
        port,
        reserved: [0; 2],
    }
}
