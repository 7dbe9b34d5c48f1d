//! Collection passes, run by the agent: flows that timed out, and what belongs to no interface any more.
#![allow(unsafe_code, reason = "the kernel calls back with raw pointers")]

use core::ffi::c_void;

use netagent_common::flow::{Collected, Flow, FlowKey, FlowState, Opener, Place, REMOVED_MAX};
use netagent_common::nat::{ANY_INSTANCE, Mapping, MappingKey, ORPHAN_AGE, Reverse, ReverseKey};
use netagent_common::timeouts::CROWDED_S;
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::{conntrack, kernel, mapping, maps, nat, policy};

/// What a pass carries from element to element.
#[repr(C)]
struct Pass {
    now_ns: u64,
    collected: Collected,
}

const GO_ON: i64 = 0;
const STOP: i64 = 1;

/// Removes flows that timed out and those whose interface is gone, with their ports.
#[inline(always)]
pub fn flows() {
    let mut pass = Pass::new();
    flows_of::<[u8; 4]>(&mut pass);
    if pass.collected.more == 0 {
        flows_of::<[u8; 16]>(&mut pass);
    }
    maps::set_collected(&pass.collected);
}

#[inline(always)]
fn flows_of<A: Family>(pass: &mut Pass) {
    let (seen, removed) = (pass.collected.seen, pass.collected.removed);
    maps::for_each_flow::<A, _>(expire::<A>, pass);
    if pass.collected.more == 0 {
        let seen = pass.collected.seen.wrapping_sub(seen);
        let removed = pass.collected.removed.wrapping_sub(removed);
        maps::set_flows_left::<A>(seen.wrapping_sub(removed).into());
    }
}

/// Removes reverse entries without a flow, and mappings that nobody uses.
#[inline(always)]
pub fn orphans() {
    let mut pass = Pass::new();
    maps::for_each_reverse::<[u8; 4], _>(expire_reverse::<[u8; 4]>, &mut pass);
    if pass.collected.more == 0 {
        maps::for_each_reverse::<[u8; 16], _>(expire_reverse::<[u8; 16]>, &mut pass);
    }
    if pass.collected.more == 0 {
        maps::for_each_mapping::<[u8; 4], _>(expire_mapping::<[u8; 4]>, &mut pass);
    }
    if pass.collected.more == 0 {
        maps::for_each_mapping::<[u8; 16], _>(expire_mapping::<[u8; 16]>, &mut pass);
    }
    maps::set_collected(&pass.collected);
}

impl Pass {
    #[inline(always)]
    fn new() -> Self {
        Self {
            now_ns: kernel::now_ns(),
            collected: Collected {
                seen: 0,
                removed: 0,
                more: 0,
                failed: 0,
            },
        }
    }

    /// Notes a removal and says whether to go on.
    #[inline(always)]
    fn removed(&mut self, done: bool) -> i64 {
        if !done {
            self.collected.failed += 1;
            return GO_ON;
        }
        self.collected.removed += 1;
        if self.collected.removed < REMOVED_MAX {
            return GO_ON;
        }
        self.collected.more = 1;
        STOP
    }
}

unsafe extern "C" fn expire<A: Family>(
    _map: *mut c_void,
    key: *mut c_void,
    value: *mut c_void,
    context: *mut c_void,
) -> i64 {
    // SAFETY: the kernel passes the context that `flows` gave, a `Pass` that outlives the call.
    let pass = unsafe { &mut *context.cast::<Pass>() };
    // SAFETY: the kernel passes a value of the map, which holds flows of this family.
    let flow = unsafe { &mut *value.cast::<Flow<A>>() };
    pass.collected.seen += 1;
    // SAFETY: as for the value. The key is part of the element, which goes with the removal: copy it.
    let key = unsafe { key.cast::<FlowKey<A>>().read() };
    let interface = maps::record(flow.slot)
        .ok()
        .filter(|interface| interface.generation == flow.generation);
    // The clock of another CPU may be a tick ahead.
    let idle_ns = pass.now_ns.saturating_sub(flow.last_seen_ns);
    if let Some(interface) = interface
        && idle_ns < timeout_ns(&key, flow, interface)
    {
        policy::note_use(interface, key.remote, pass.now_ns);
        return GO_ON;
    }
    let is_retired = conntrack::retire(flow, interface.map(|_| key.instance));
    // Another CPU is about to remove it; one that was not removed then goes now.
    let is_mine = is_retired || FlowState::from_number(flow.state) == FlowState::Removed;
    pass.removed(is_mine && conntrack::remove(&key, flow))
}

/// Time after which a flow is removed, ns. Who has very many closing flows keeps them for a shorter time.
#[inline(always)]
fn timeout_ns<A>(key: &FlowKey<A>, flow: &Flow<A>, interface: &Interface) -> u64 {
    let state = FlowState::from_number(flow.state);
    let opener = Opener::from_number(flow.opener);
    let timeout_ns =
        maps::timeouts().of_flow_ns(key.protocol as u8, state, opener) + state.stale_ns();
    let is_crowded = state.place() == Some(Place::Closing)
        && maps::closing_flows(key.instance) > u64::from(interface.flow_limit / 2);
    if is_crowded {
        timeout_ns.min(u64::from(CROWDED_S) * 1_000_000_000)
    } else {
        timeout_ns
    }
}

unsafe extern "C" fn expire_reverse<A: Family>(
    _map: *mut c_void,
    key: *mut c_void,
    value: *mut c_void,
    context: *mut c_void,
) -> i64 {
    // SAFETY: as in `expire`, from `orphans`.
    let pass = unsafe { &mut *context.cast::<Pass>() };
    // SAFETY: as in `expire`; this map holds reverse entries.
    let reverse = unsafe { &*value.cast::<Reverse<A>>() };
    pass.collected.seen += 1;
    let now = kernel::tick();
    if now.saturating_sub(reverse.seen) < ORPHAN_AGE {
        return GO_ON;
    }
    // SAFETY: as in `expire`.
    let key = unsafe { key.cast::<ReverseKey<A>>().read() };
    let flow_key = nat::flow_key(&key, reverse);
    if maps::flow(&flow_key)
        .is_some_and(|flow| flow.nat_port == key.nat_port && flow.nat_address == key.nat_address)
    {
        return GO_ON;
    }
    let done = maps::remove_reverse(&key);
    pass.removed(done)
}

/// The entry that says whose a port is knows when it was used; the guest's goes with it.
unsafe extern "C" fn expire_mapping<A: Family>(
    _map: *mut c_void,
    key: *mut c_void,
    value: *mut c_void,
    context: *mut c_void,
) -> i64 {
    // SAFETY: as in `expire`, from `orphans`.
    let pass = unsafe { &mut *context.cast::<Pass>() };
    // SAFETY: as in `expire`; this map holds mappings.
    let found = unsafe { value.cast::<Mapping<A>>().read() };
    // SAFETY: as in `expire`.
    let mut key = unsafe { key.cast::<MappingKey<A>>().read() };
    pass.collected.seen += 1;
    let interface = maps::record(found.slot)
        .ok()
        .filter(|interface| interface.generation == found.generation);
    if key.instance != ANY_INSTANCE {
        let other = mapping::of_port(key.nat_address, found.nat_port);
        // It is written second and removed second: without the other, it is on its way out.
        let is_kept = maps::mapping(&other).is_some_and(|other| is_same(other, &found));
        if interface.is_some() && is_kept {
            return GO_ON;
        }
        let done = maps::remove_mapping(&key);
        return pass.removed(done);
    }
    let idle_s = ((pass.now_ns / 1_000_000_000) as u32).saturating_sub(found.used_s);
    if interface.is_some() && idle_s < u32::from(maps::timeouts().udp) {
        return GO_ON;
    }
    if !maps::remove_mapping(&key) {
        return pass.removed(false);
    }
    let instance = interface.map(|interface| interface.instance);
    maps::count_mapped::<A>(instance, u64::MAX);
    if let Some(instance) = instance {
        key.instance = instance;
        (key.guest, key.port) = (found.guest, found.guest_port);
        maps::remove_mapping(&key);
    }
    pass.removed(true)
}

/// Whether both are entries of one mapping.
#[inline(always)]
fn is_same<A: Family>(one: &Mapping<A>, other: &Mapping<A>) -> bool {
    one.generation == other.generation
        && one.guest == other.guest
        && one.guest_port == other.guest_port
}
