//! Every map, behind functions. No other file names one.
#![allow(
    unsafe_code,
    reason = "the one place where map values are dereferenced"
)]

mod constants;
mod families;
mod published;

pub use constants::*;
pub use families::*;
pub use published::*;

use aya_ebpf::btf_maps::{Array, HashMap, HashOfMaps, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use netagent_common::bucket::Buckets;
use netagent_common::drop::{AUDITED, DropKey, DropReason};
use netagent_common::flow::{Collected, Flow, FlowKey, Place};
use netagent_common::fragment::{First, FragmentKey};
use netagent_common::learned::{
    LEARNED_MAX, Learned, LearnedKey, LedTo, LedToKey, NAME_PARTS_MAX, NameKey, NamePart,
};
use netagent_common::limit::{
    DROPS_MAX, FLOWS_MAX, FLOWS_PER_MAPPING, FRAGMENTS_MAX, POLICIES_MAX, ROUTES_MAX, Used,
};
use netagent_common::names::ABI_VERSION;
use netagent_common::nat::{
    FILTER_PLACES, Holdings, Mapping, MappingKey, Reverse, ReverseKey, fill,
};
use netagent_common::policy::{PolicyId, Route, policy_flag};
use netagent_common::publish::{
    EXPOSED_MAX, ExposedKey, HOST_PORTS_MAX, HostPortKey, LED_SOCKETS_MAX, Led, LedKey,
    PUBLISHED_MAX, PublishKey, Published, SENDERS_MAX, SenderKey,
};
use netagent_common::services::{Allowance, Asked, Services};
use netagent_common::vm::{
    self, ACTIVE_CHUNKS, Active, CLIENTS_MAX, Client, Interface, SLOTS_MAX, State, Traffic,
};

use crate::kernel::{Skb, atomic_add, compare_exchange};
use crate::resume::Ended;
use crate::verdict::Dropped;

pub(crate) type Flows<A> = HashMap<FlowKey<A>, Flow<A>, { FLOWS_MAX as usize }>;
pub(crate) type Reverses<A> = HashMap<ReverseKey<A>, Reverse<A>, { FLOWS_MAX as usize }>;
pub(crate) type PublishedPorts<A> =
    HashMap<PublishKey<A>, Published<A>, { PUBLISHED_MAX as usize }, NO_PREALLOC>;
pub(crate) type Senders<A> = LpmTrie<SenderKey<A>, u32, { SENDERS_MAX as usize }>;
pub(crate) type Mappings<A> =
    HashMap<MappingKey<A>, Mapping<A>, { (FLOWS_MAX / FLOWS_PER_MAPPING) as usize }, NO_PREALLOC>;
pub(crate) type Guests<A> = LpmTrie<A, u32, { SLOTS_MAX as usize }>;
pub(crate) type Clients<A> = HashMap<A, Client, { CLIENTS_MAX as usize }, NO_PREALLOC>;
pub(crate) type Routes<A> = LpmTrie<A, Route<A>, { ROUTES_MAX as usize }>;
/// The kernel takes inner maps of other sizes than this one's.
pub(crate) type Policies<A> =
    HashOfMaps<PolicyId, LpmTrie<A, u32, 1>, { POLICIES_MAX as usize }, NO_PREALLOC>;
pub(crate) type LearnedAddresses<A> =
    HashMap<LearnedKey<A>, Learned, { LEARNED_MAX as usize }, NO_PREALLOC>;
pub(crate) type AskedServers<A> = HashMap<u32, Asked<A>, { SLOTS_MAX as usize }, NO_PREALLOC>;
pub(crate) type Fragments<A> = LruHashMap<FragmentKey<A>, First, { FRAGMENTS_MAX as usize }>;

const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;

#[btf_map]
static STATE: Array<State, 1> = Array::new();
#[btf_map]
static ACTIVE: Array<Active, { ACTIVE_CHUNKS as usize }> = Array::new();
#[btf_map]
static INTERFACES: Array<Interface, { 2 * SLOTS_MAX as usize }> = Array::new();
#[btf_map]
static ADOPTED: HashMap<u32, u32, { SLOTS_MAX as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static OPEN_FLOWS: Array<u64, { SLOTS_MAX as usize }> = Array::new();
#[btf_map]
static HOLDINGS: Array<Holdings, { SLOTS_MAX as usize }> = Array::new();
#[btf_map]
static ROUTES_V4: Routes<[u8; 4]> = Routes::new();
#[btf_map]
static ROUTES_V6: Routes<[u8; 16]> = Routes::new();
#[btf_map]
static GUESTS_V4: Guests<[u8; 4]> = Guests::new();
#[btf_map]
static GUESTS_V6: Guests<[u8; 16]> = Guests::new();
#[btf_map]
static CLIENTS_V4: Clients<[u8; 4]> = Clients::new();
#[btf_map]
static CLIENTS_V6: Clients<[u8; 16]> = Clients::new();
#[btf_map]
static POLICIES_V4: Policies<[u8; 4]> = Policies::new();
#[btf_map]
static POLICIES_V6: Policies<[u8; 16]> = Policies::new();
#[btf_map]
static LEARNED_V4: LearnedAddresses<[u8; 4]> = LearnedAddresses::new();
#[btf_map]
static LEARNED_V6: LearnedAddresses<[u8; 16]> = LearnedAddresses::new();
#[btf_map]
static LED_TO: HashMap<LedToKey, LedTo, { 2 * LEARNED_MAX as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static NAMES: HashMap<NameKey, NamePart, { NAME_PARTS_MAX as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static ASKED_V4: AskedServers<[u8; 4]> = AskedServers::new();
#[btf_map]
static ASKED_V6: AskedServers<[u8; 16]> = AskedServers::new();
#[btf_map]
static FLOWS_V4: Flows<[u8; 4]> = Flows::new();
#[btf_map]
static FLOWS_V6: Flows<[u8; 16]> = Flows::new();
#[btf_map]
static REVERSE_V4: Reverses<[u8; 4]> = Reverses::new();
#[btf_map]
static REVERSE_V6: Reverses<[u8; 16]> = Reverses::new();
#[btf_map]
static MAPPINGS_V4: Mappings<[u8; 4]> = Mappings::new();
#[btf_map]
static MAPPINGS_V6: Mappings<[u8; 16]> = Mappings::new();
#[btf_map]
static MAPPING_FILTER: Array<u64, { FILTER_PLACES as usize }> = Array::new();
#[btf_map]
static FILL: Array<u64, { fill::COUNT as usize }> = Array::new();
#[btf_map]
static SCRATCH: PerCpuArray<Flow<[u8; 16]>, 1> = PerCpuArray::new();
#[btf_map]
static DROPS: HashMap<DropKey, u64, { DROPS_MAX as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static TRAFFIC: PerCpuArray<Traffic, { SLOTS_MAX as usize }> = PerCpuArray::new();
#[btf_map]
static SERVICES: Array<Services, 1> = Array::new();
#[btf_map]
static ALLOWANCES: Array<Allowance, { SLOTS_MAX as usize }> = Array::new();
#[btf_map]
static PUBLISHED_V4: PublishedPorts<[u8; 4]> = PublishedPorts::new();
#[btf_map]
static PUBLISHED_V6: PublishedPorts<[u8; 16]> = PublishedPorts::new();
#[btf_map]
static SENDERS_V4: Senders<[u8; 4]> = Senders::new();
#[btf_map]
static SENDERS_V6: Senders<[u8; 16]> = Senders::new();
#[btf_map]
static EXPOSED: HashMap<ExposedKey, u32, { EXPOSED_MAX as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static HOST_PORTS: HashMap<HostPortKey, u32, { HOST_PORTS_MAX as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
static LED_SOCKETS: LruHashMap<LedKey, Led, { LED_SOCKETS_MAX as usize }> = LruHashMap::new();
#[btf_map]
static BUCKETS: Array<Buckets, { SLOTS_MAX as usize }> = Array::new();
#[btf_map]
static USED: Array<Used, { SLOTS_MAX as usize }> = Array::new();
#[btf_map]
static FRAGMENTS_V4: Fragments<[u8; 4]> = Fragments::new();
#[btf_map]
static FRAGMENTS_V6: Fragments<[u8; 16]> = Fragments::new();
#[btf_map]
static COLLECTED: Array<Collected, 1> = Array::new();

/// Generation of the routes.
#[inline(always)]
pub fn route_generation() -> u32 {
    STATE.get(0).map_or(0, |state| state.route_generation)
}

/// Interface index of the way to the servers.
///
/// # Errors
/// [`DropReason::ServicesDown`] where there is none.
#[inline(always)]
pub fn way_to_servers() -> Result<u32, DropReason> {
    match SERVICES.get(0).map_or(0, |services| services.ifindex) {
        0 => Err(DropReason::ServicesDown),
        ifindex => Ok(ifindex),
    }
}

/// What a slot may still send to the servers.
#[inline(always)]
pub fn allowance(slot: u32) -> Option<&'static mut Allowance> {
    let allowance = ALLOWANCES.get_ptr_mut(slot)?;
    // SAFETY: an array element lives as long as the map. Two CPUs may change it at once: each writes whole words,
    // and what one of them overwrites is an allowance of one packet.
    Some(unsafe { &mut *allowance })
}

/// What an instance owes.
#[inline(always)]
pub fn buckets(instance: u32) -> Option<&'static mut Buckets> {
    let buckets = BUCKETS.get_ptr_mut(instance)?;
    // SAFETY: an array element lives as long as the map. Its words are changed by `exchange_paid` and atomic additions.
    Some(unsafe { &mut *buckets })
}

/// Up to when everything is paid, read whole.
#[inline(always)]
pub fn read_paid(paid_ns: &mut u64) -> u64 {
    // SAFETY: a reference, to an aligned word; other CPUs change it, so the compiler must not read it twice.
    unsafe { core::ptr::from_mut(paid_ns).read_volatile() }
}

/// Charges an amount where nobody else did since `paid_ns` was read to be `old`, and returns what it was.
#[inline(always)]
pub fn exchange_paid(paid_ns: &mut u64, old: u64, new: u64) -> u64 {
    // SAFETY: a reference, to an aligned word.
    unsafe { compare_exchange(core::ptr::from_mut(paid_ns), old, new) }
}

/// Gives back what was charged for a packet that is not passed on.
#[inline(always)]
pub fn give_back(paid_ns: &mut u64, cost_ns: u64) {
    // SAFETY: a reference, to an aligned word that is changed atomically alone.
    unsafe { atomic_add(core::ptr::from_mut(paid_ns), cost_ns.wrapping_neg()) };
}

/// What a slot has used up.
#[inline(always)]
pub fn used(slot: u32) -> Option<&'static mut Used> {
    let used = USED.get_ptr_mut(slot)?;
    // SAFETY: as in `allowance`.
    Some(unsafe { &mut *used })
}

/// The interface with this index.
///
/// # Errors
/// A drop that belongs to no interface, where there is no record in force or it is another one's.
#[inline(always)]
pub fn interface(ifindex: u32) -> Result<&'static Interface, Dropped> {
    let own = record(vm::slot(ifindex));
    // The record of a leg bears the index of another TAP, which may be one whose index names no slot.
    if let Ok(record) = own
        && record.ifindex == ifindex
        && record.policy_flags & policy_flag::LEG == 0
    {
        return Ok(record);
    }
    let missing = own.err().unwrap_or(DropReason::UnknownInterface);
    adopted(ifindex, missing).map_err(Dropped::nowhere)
}

/// The interface of the guest whose packet it is, or the leg that stands for it, for functions that take nothing but the
/// packet.
///
/// # Errors
/// As of [`interface`]; [`DropReason::RelayDown`] where the leg went.
#[inline(always)]
pub fn interface_of(skb: Skb) -> Result<&'static Interface, DropReason> {
    match skb.leg() {
        None => interface(skb.ifindex()).map_err(|dropped| dropped.reason),
        Some(slot) => match record(slot) {
            Ok(leg) if leg.policy_flags & policy_flag::LEG != 0 => Ok(leg),
            Ok(_) | Err(_) => Err(DropReason::RelayDown),
        },
    }
}

/// The record of a TAP that the agent did not make, whose index names no slot.
///
/// # Errors
/// `missing` where it is none; where its slot is no longer its own, [`DropReason::UnknownInterface`].
#[inline(always)]
fn adopted(ifindex: u32, missing: DropReason) -> Result<&'static Interface, DropReason> {
    let slot = ADOPTED.get_ptr(ifindex).ok_or(missing)?;
    // SAFETY: the element stays readable until the program ends (RCU), and an aligned word is read whole.
    let slot = unsafe { slot.read_volatile() };
    let record = record(slot)?;
    if record.ifindex != ifindex || record.policy_flags & policy_flag::LEG != 0 {
        return Err(DropReason::UnknownInterface);
    }
    Ok(record)
}

/// The record in force of a slot.
///
/// # Errors
/// Where there is none, or it was written by another version.
#[inline(always)]
pub fn record(slot: u32) -> Result<&'static Interface, DropReason> {
    let (chunk, place) = vm::active_place(slot);
    let active = ACTIVE
        .get(chunk)
        .and_then(|chunk| chunk.get(place))
        .ok_or(DropReason::UnknownInterface)?;
    // SAFETY: a reference into an element that lives as long as the map. The agent may flip it meanwhile: it is
    // read once, so that the copy that was checked is the one that is taken.
    let active = unsafe { core::ptr::from_ref(active).read_volatile() };
    if active == 0 {
        return Err(DropReason::UnknownInterface);
    }
    let record = INTERFACES
        .get(vm::record_index(slot, active.into()))
        .ok_or(DropReason::UnknownInterface)?;
    if record.abi != ABI_VERSION {
        return Err(DropReason::UnknownAbi);
    }
    if record.slot != slot {
        return Err(DropReason::UnknownInterface);
    }
    Ok(record)
}

/// Generation of an interface's policy. It is read before anything else of the policy: should the agent write over the
/// record meanwhile, what is judged by the new one carries the older generation, and is judged again.
#[inline(always)]
pub fn policy_generation(interface: &Interface) -> u32 {
    // SAFETY: a reference, read once.
    unsafe { (&raw const interface.policy_generation).read_volatile() }
}

/// Flows that the instance has open.
#[inline(always)]
pub fn open_flows(instance: u32) -> u64 {
    OPEN_FLOWS.get_ptr_mut(instance).map_or(u64::MAX, |count| {
        // SAFETY: an array element lives as long as the map, and an aligned word is read whole.
        counted(unsafe { count.read_volatile() })
    })
}

/// What the instance holds beside its open flows, to be read and changed.
#[inline(always)]
pub fn holdings(instance: u32) -> Option<&'static mut Holdings> {
    let holdings = HOLDINGS.get_ptr_mut(instance)?;
    // SAFETY: an array element lives as long as the map. Counts are changed by atomic additions alone, and the time is
    // an aligned word, read and written whole.
    Some(unsafe { &mut *holdings })
}

/// Closing flows of the instance.
#[inline(always)]
pub fn closing_flows(instance: u32) -> u64 {
    holdings(instance).map_or(u64::MAX, |holdings| counted(holdings.closing))
}

/// Flows that the instance holds, open and closing.
#[inline(always)]
pub fn flows_held(instance: u32) -> u64 {
    open_flows(instance).saturating_add(closing_flows(instance))
}

/// Endpoint-independent mappings of the instance.
#[inline(always)]
pub fn mappings(instance: u32) -> u64 {
    holdings(instance).map_or(u64::MAX, |holdings| counted(holdings.mapped))
}

/// The agent may have set a count to 0 while what it counts was there: what that takes away again is below 0, and
/// counts as none.
#[inline(always)]
const fn counted(count: u64) -> u64 {
    if count.cast_signed() < 0 { 0 } else { count }
}

/// Counts a flow that was opened.
#[inline(always)]
pub fn count_opened(instance: u32) {
    count_moved(instance, (None, Some(Place::Open)));
}

/// Counts a flow that went from one count of its instance to another, or out of all.
#[inline(always)]
pub fn count_moved(instance: u32, (from, to): (Option<Place>, Option<Place>)) {
    // Adding all ones takes one away.
    for (place, change) in [(from, u64::MAX), (to, 1)] {
        let count = match place {
            Some(Place::Open) => OPEN_FLOWS.get_ptr_mut(instance),
            Some(Place::Closing) => holdings(instance).map(|holdings| &raw mut holdings.closing),
            None => None,
        };
        if let Some(count) = count {
            // SAFETY: an array element lives as long as the map; it is only ever changed by atomic additions.
            unsafe { atomic_add(count, change) };
        }
    }
}

/// Endpoint-independent mappings of all instances, in one family.
#[inline(always)]
pub fn mapped<A: FamilyMaps>() -> u64 {
    FILL.get(A::MAPPINGS_PLACE)
        .map_or(u64::MAX, |count| counted(*count))
}

/// Counts an endpoint-independent mapping that was made, or with `u64::MAX`, one that was removed. No `instance` is
/// given for one of an earlier life of its slot.
#[inline(always)]
pub fn count_mapped<A: FamilyMaps>(instance: Option<u32>, change: u64) {
    if let Some(count) = FILL.get_ptr_mut(A::MAPPINGS_PLACE) {
        // SAFETY: an array element lives as long as the map; it is only ever changed by atomic additions.
        unsafe { atomic_add(count, change) };
    }
    if let Some(holdings) = instance.and_then(holdings) {
        // SAFETY: as above.
        unsafe { atomic_add(&raw mut holdings.mapped, change) };
    }
}

/// Notes how many flows of a family a collection pass left.
#[inline(always)]
pub fn set_flows_left<A: FamilyMaps>(flows: u64) {
    if let Some(count) = FILL.get_ptr_mut(A::FLOWS_PLACE) {
        // SAFETY: the element lives as long as the map, and the agent runs one pass at a time.
        unsafe { count.write(flows) };
    }
}

/// This CPU's place for a flow that is being made, to be written whole.
#[inline(always)]
pub fn scratch_flow<A: FamilyMaps>() -> Option<&'static mut Flow<A>> {
    const {
        assert!(size_of::<Flow<A>>() <= size_of::<Flow<[u8; 16]>>());
    }
    let flow = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's own element; tc programs of one CPU do not interrupt each other. It is large enough for a flow
    // of either family, for which any bytes are a value.
    Some(unsafe { &mut *flow.cast::<Flow<A>>() })
}

/// The same place, for what is left of a flow that ended.
#[inline(always)]
pub fn scratch_ended<A: FamilyMaps>() -> Option<&'static mut Ended<A>> {
    const {
        assert!(size_of::<Ended<A>>() <= size_of::<Flow<[u8; 16]>>());
    }
    let ended = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: as in `scratch_flow`.
    Some(unsafe { &mut *ended.cast::<Ended<A>>() })
}

/// Counts a drop.
#[inline(always)]
pub fn count_drop(dropped: Dropped) {
    count(DropKey {
        slot: dropped.slot,
        reason: dropped.reason as u32,
    });
}

#[inline(always)]
fn count(key: DropKey) {
    if let Some(count) = DROPS.get_ptr_mut(key) {
        // SAFETY: the element was found just now; one that the agent removes meanwhile stays readable until
        // the program ends (RCU), and only the count is lost.
        unsafe { atomic_add(count, 1) };
        return;
    }
    // Where two CPUs count the first drop at once, the second adds to what the first one wrote.
    if DROPS
        .insert(key, 1, aya_ebpf::bindings::BPF_NOEXIST.into())
        .is_err()
        && let Some(count) = DROPS.get_ptr_mut(key)
    {
        // SAFETY: as above.
        unsafe { atomic_add(count, 1) };
    }
}

/// Counts what the policy would drop and lets pass.
#[inline(always)]
pub fn count_audited(slot: u32, reason: DropReason) {
    count(DropKey {
        slot,
        reason: reason as u32 | AUDITED,
    });
}

/// Counts packets and bytes that the guest sent, as the wire will carry them.
#[inline(always)]
pub fn count_from_vm(slot: u32, (packets, bytes): (u32, u32)) {
    if let Some(traffic) = TRAFFIC.get_ptr_mut(slot) {
        // SAFETY: this CPU's own element; tc programs of one CPU do not interrupt each other.
        let traffic = unsafe { &mut *traffic };
        traffic.from_vm_packets += u64::from(packets);
        traffic.from_vm_bytes += u64::from(bytes);
    }
}

/// Counts packets and bytes that go to the guest, as the wire carried them.
#[inline(always)]
pub fn count_to_vm(slot: u32, (packets, bytes): (u32, u32)) {
    if let Some(traffic) = TRAFFIC.get_ptr_mut(slot) {
        // SAFETY: as in `count_from_vm`.
        let traffic = unsafe { &mut *traffic };
        traffic.to_vm_packets += u64::from(packets);
        traffic.to_vm_bytes += u64::from(bytes);
    }
}

/// Publishes what a collection pass did.
#[inline(always)]
pub fn set_collected(collected: &Collected) {
    if let Some(value) = COLLECTED.get_ptr_mut(0) {
        // SAFETY: the element lives as long as the map, and the agent runs one pass at a time.
        unsafe { value.write(*collected) };
    }
}
