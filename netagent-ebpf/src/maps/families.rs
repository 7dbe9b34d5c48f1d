//! Flows, reverse entries and routes: one map for each family.
#![allow(
    unsafe_code,
    reason = "the one place where map values are dereferenced"
)]

use core::ffi::c_void;
use core::mem::offset_of;

use aya_ebpf::btf_maps::lpm_trie::Key;
use netagent_common::flow::{Flow, FlowKey, FlowState, Opener};
use netagent_common::fragment::{First, FragmentKey};
use netagent_common::learned::{Learned, LearnedKey};
use netagent_common::nat::{Mapping, MappingKey, Reverse, ReverseKey, fill, filter_place};
use netagent_common::policy::{PolicyId, Route, Verdict};
use netagent_common::services::{Asked, SERVERS};
use netagent_common::vm::Client;

use crate::kernel::{atomic_add, compare_exchange};
use crate::maps::{
    ASKED_V4, ASKED_V6, AskedServers, CLIENTS_V4, CLIENTS_V6, Clients, FLOWS_V4, FLOWS_V6,
    FRAGMENTS_V4, FRAGMENTS_V6, Flows, Fragments, GUESTS_V4, GUESTS_V6, Guests, LEARNED_V4,
    LEARNED_V6, LearnedAddresses, MAPPING_FILTER, MAPPINGS_V4, MAPPINGS_V6, Mappings, POLICIES_V4,
    POLICIES_V6, PUBLISHED_V4, PUBLISHED_V6, Policies, PublishedPorts, REVERSE_V4, REVERSE_V6,
    ROUTES_V4, ROUTES_V6, Reverses, Routes, SENDERS_V4, SENDERS_V6, Senders,
};

/// The maps of one address family.
pub trait FamilyMaps: Copy + Eq + 'static {
    #[doc(hidden)]
    fn flow_map() -> &'static Flows<Self>;
    #[doc(hidden)]
    fn reverse_map() -> &'static Reverses<Self>;
    #[doc(hidden)]
    fn mapping_map() -> &'static Mappings<Self>;
    #[doc(hidden)]
    fn route_map() -> &'static Routes<Self>;
    #[doc(hidden)]
    fn guests_map() -> &'static Guests<Self>;
    #[doc(hidden)]
    fn clients_map() -> &'static Clients<Self>;
    /// The network that is one interface's as a whole, where the family has such; else the address.
    #[doc(hidden)]
    fn network(self) -> Self;
    #[doc(hidden)]
    fn policy_map() -> &'static Policies<Self>;
    #[doc(hidden)]
    fn learned_map() -> &'static LearnedAddresses<Self>;
    #[doc(hidden)]
    fn asked_map() -> &'static AskedServers<Self>;
    #[doc(hidden)]
    fn nobody_asked() -> &'static Asked<Self>;
    #[doc(hidden)]
    fn published_map() -> &'static PublishedPorts<Self>;
    #[doc(hidden)]
    fn senders_map() -> &'static Senders<Self>;
    #[doc(hidden)]
    fn fragment_map() -> &'static Fragments<Self>;
    #[doc(hidden)]
    fn guest_of(reverse: &Reverse<Self>) -> Self;
    /// Place of its flows in the array of fills.
    const FLOWS_PLACE: u32;
    /// Place of its mappings there.
    const MAPPINGS_PLACE: u32;
    /// Length of an address, bits.
    const BITS: u32 = size_of::<Self>() as u32 * 8;
}

impl FamilyMaps for [u8; 4] {
    const FLOWS_PLACE: u32 = fill::FLOWS_V4;
    const MAPPINGS_PLACE: u32 = fill::MAPPINGS_V4;
    #[inline(always)]
    fn mapping_map() -> &'static Mappings<Self> {
        &MAPPINGS_V4
    }
    #[inline(always)]
    fn flow_map() -> &'static Flows<Self> {
        &FLOWS_V4
    }
    #[inline(always)]
    fn reverse_map() -> &'static Reverses<Self> {
        &REVERSE_V4
    }
    #[inline(always)]
    fn route_map() -> &'static Routes<Self> {
        &ROUTES_V4
    }
    #[inline(always)]
    fn guests_map() -> &'static Guests<Self> {
        &GUESTS_V4
    }
    #[inline(always)]
    fn clients_map() -> &'static Clients<Self> {
        &CLIENTS_V4
    }
    #[inline(always)]
    fn network(self) -> Self {
        self
    }
    #[inline(always)]
    fn policy_map() -> &'static Policies<Self> {
        &POLICIES_V4
    }
    #[inline(always)]
    fn learned_map() -> &'static LearnedAddresses<Self> {
        &LEARNED_V4
    }
    #[inline(always)]
    fn asked_map() -> &'static AskedServers<Self> {
        &ASKED_V4
    }
    #[inline(always)]
    fn nobody_asked() -> &'static Asked<Self> {
        &NOBODY_ASKED_V4
    }
    #[inline(always)]
    fn published_map() -> &'static PublishedPorts<Self> {
        &PUBLISHED_V4
    }
    #[inline(always)]
    fn senders_map() -> &'static Senders<Self> {
        &SENDERS_V4
    }
    #[inline(always)]
    fn fragment_map() -> &'static Fragments<Self> {
        &FRAGMENTS_V4
    }
    #[inline(always)]
    fn guest_of(reverse: &Reverse<Self>) -> Self {
        let [guest] = read_words(reverse, offset_of!(Reverse<Self>, guest));
        guest
    }
}

impl FamilyMaps for [u8; 16] {
    const FLOWS_PLACE: u32 = fill::FLOWS_V6;
    const MAPPINGS_PLACE: u32 = fill::MAPPINGS_V6;
    #[inline(always)]
    fn mapping_map() -> &'static Mappings<Self> {
        &MAPPINGS_V6
    }
    #[inline(always)]
    fn flow_map() -> &'static Flows<Self> {
        &FLOWS_V6
    }
    #[inline(always)]
    fn reverse_map() -> &'static Reverses<Self> {
        &REVERSE_V6
    }
    #[inline(always)]
    fn route_map() -> &'static Routes<Self> {
        &ROUTES_V6
    }
    #[inline(always)]
    fn guests_map() -> &'static Guests<Self> {
        &GUESTS_V6
    }
    #[inline(always)]
    fn clients_map() -> &'static Clients<Self> {
        &CLIENTS_V6
    }
    #[inline(always)]
    fn network(self) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = self;
        [a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0]
    }
    #[inline(always)]
    fn policy_map() -> &'static Policies<Self> {
        &POLICIES_V6
    }
    #[inline(always)]
    fn learned_map() -> &'static LearnedAddresses<Self> {
        &LEARNED_V6
    }
    #[inline(always)]
    fn asked_map() -> &'static AskedServers<Self> {
        &ASKED_V6
    }
    #[inline(always)]
    fn nobody_asked() -> &'static Asked<Self> {
        &NOBODY_ASKED_V6
    }
    #[inline(always)]
    fn published_map() -> &'static PublishedPorts<Self> {
        &PUBLISHED_V6
    }
    #[inline(always)]
    fn senders_map() -> &'static Senders<Self> {
        &SENDERS_V6
    }
    #[inline(always)]
    fn fragment_map() -> &'static Fragments<Self> {
        &FRAGMENTS_V6
    }
    #[inline(always)]
    fn guest_of(reverse: &Reverse<Self>) -> Self {
        let words = read_words(reverse, offset_of!(Reverse<Self>, guest));
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = words;
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }
}

/// Beside the map: a value of this size does not fit the stack.
static NOBODY_ASKED_V4: Asked<[u8; 4]> = nobody([0; 4]);
static NOBODY_ASKED_V6: Asked<[u8; 16]> = nobody([0; 16]);

const fn nobody<A: Copy>(nobody: A) -> Asked<A> {
    Asked {
        last: 0,
        reserved: 0,
        servers: [nobody; SERVERS],
    }
}

/// Why an entry was not inserted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum InsertError {
    /// The key is there already.
    Exists,
    /// The map is full.
    Full,
}

/// The flow with this key, to be read and changed.
#[inline(always)]
pub fn flow<A: FamilyMaps>(key: &FlowKey<A>) -> Option<&'static mut Flow<A>> {
    let flow = A::flow_map().get_ptr_mut(key)?;
    // SAFETY: the element stays readable and writable until the program ends (RCU). Two CPUs may change it at
    // once; every field is written whole, and the fields do not depend on each other.
    Some(unsafe { &mut *flow })
}

/// A flow's state, and beside it what tells the flow from another that took its element meanwhile: the port.
#[derive(Clone, Copy)]
pub struct StateWord([u8; 8]);

impl StateWord {
    /// The state.
    #[inline(always)]
    pub const fn state(self) -> FlowState {
        let [_, _, _, _, state, ..] = self.0;
        FlowState::from_number(state)
    }

    /// Who opened the flow.
    #[inline(always)]
    pub const fn opener(self) -> Opener {
        let [_, _, _, _, _, opener, ..] = self.0;
        Opener::from_number(opener)
    }

    #[inline(always)]
    const fn with(self, state: FlowState) -> Self {
        let [a, b, c, d, _, opener, e, f] = self.0;
        Self([a, b, c, d, state as u8, opener, e, f])
    }
}

/// Reads a flow's state.
#[inline(always)]
pub fn state_word<A>(flow: &mut Flow<A>) -> StateWord {
    let word = state_place(flow);
    // SAFETY: `state_place` points into the flow, which can be read, and an aligned word is read whole.
    StateWord(unsafe { word.read_volatile() }.to_ne_bytes())
}

/// Changes a flow's state where it is still what was read: of several CPUs that try, exactly one succeeds.
#[inline(always)]
pub fn exchange_state<A>(flow: &mut Flow<A>, read: StateWord, state: FlowState) -> bool {
    let [old, new] = [read, read.with(state)].map(|word| u64::from_ne_bytes(word.0));
    // SAFETY: `state_place` points into the flow, and is aligned.
    unsafe { compare_exchange(state_place(flow), old, new) == old }
}

#[inline(always)]
fn state_place<A>(flow: &mut Flow<A>) -> *mut u64 {
    const {
        assert!(offset_of!(Flow<A>, address_difference) % 8 == 0);
        assert!(offset_of!(Flow<A>, state) == offset_of!(Flow<A>, address_difference) + 4);
    }
    core::ptr::from_mut(flow)
        .wrapping_byte_add(offset_of!(Flow<A>, address_difference))
        .cast()
}

/// Inserts a new flow.
#[inline(always)]
pub fn insert_flow<A: FamilyMaps>(key: &FlowKey<A>, flow: &Flow<A>) -> Result<(), InsertError> {
    A::flow_map()
        .insert(key, flow, aya_ebpf::bindings::BPF_NOEXIST.into())
        .map_err(insert_error)
}

/// Removes a flow; false where it was gone already.
#[inline(always)]
pub fn remove_flow<A: FamilyMaps>(key: &FlowKey<A>) -> bool {
    A::flow_map().remove(key).is_ok()
}

/// Whose flow it is.
#[inline(always)]
pub fn reverse<A: FamilyMaps>(key: &ReverseKey<A>) -> Option<&'static mut Reverse<A>> {
    let reverse = A::reverse_map().get_ptr_mut(key)?;
    // SAFETY: the element stays readable and writable until the program ends (RCU); its fields are changed whole.
    Some(unsafe { &mut *reverse })
}

/// Whose an entry is, and the digest of the key under which it was that.
pub struct Holder<A> {
    /// [`Reverse::tag`].
    pub tag: u32,
    /// [`Reverse::instance`].
    pub instance: u32,
    /// [`Reverse::guest_port`].
    pub guest_port: [u8; 2],
    /// [`Reverse::guest`].
    pub guest: A,
}

/// Reads whose an entry is, each word once, and the tag after everything else: the compiler neither moves nor repeats
/// these reads, and CPUs that read in order (x86) do not move them either. So what stands beside the right tag was
/// written with it.
#[inline(always)]
pub fn holder<A: FamilyMaps>(reverse: &Reverse<A>) -> Holder<A> {
    const {
        assert!(
            offset_of!(Reverse<A>, guest_port) % 4 == 0 && offset_of!(Reverse<A>, guest) % 4 == 0
        );
    }
    let guest = A::guest_of(reverse);
    let [port] = read_words(reverse, offset_of!(Reverse<A>, guest_port));
    let [instance] = read_words(reverse, offset_of!(Reverse<A>, instance));
    let [tag] = read_words(reverse, offset_of!(Reverse<A>, tag));
    let [high, low, ..] = port;
    Holder {
        tag: u32::from_ne_bytes(tag),
        instance: u32::from_ne_bytes(instance),
        guest_port: [high, low],
        guest,
    }
}

/// Reads words that other CPUs may change, each whole and once.
#[inline(always)]
fn read_words<A, const N: usize>(reverse: &Reverse<A>, offset: usize) -> [[u8; 4]; N] {
    let words = core::ptr::from_ref(reverse).wrapping_byte_add(offset);
    // SAFETY: the offsets are those of fields, which lie within the entry and at whole words of it; to the word of the
    // port belongs what is reserved behind it.
    unsafe { words.cast::<[u32; N]>().read_volatile() }.map(u32::to_ne_bytes)
}

/// Claims a port: exactly one of several CPUs that try succeeds.
#[inline(always)]
pub fn insert_reverse<A: FamilyMaps>(
    key: &ReverseKey<A>,
    reverse: &Reverse<A>,
) -> Result<(), InsertError> {
    A::reverse_map()
        .insert(key, reverse, aya_ebpf::bindings::BPF_NOEXIST.into())
        .map_err(insert_error)
}

/// Gives a port back; false where it was gone already.
#[inline(always)]
pub fn remove_reverse<A: FamilyMaps>(key: &ReverseKey<A>) -> bool {
    A::reverse_map().remove(key).is_ok()
}

/// An endpoint-independent mapping, by either of its keys, to be read and used anew.
#[inline(always)]
pub fn mapping<A: FamilyMaps>(key: &MappingKey<A>) -> Option<&'static mut Mapping<A>> {
    if !may_be_mapped(key) {
        return None;
    }
    let mapping = A::mapping_map().get_ptr_mut(key)?;
    // SAFETY: the element stays readable and writable until the program ends (RCU). Only its time is changed, whole.
    Some(unsafe { &mut *mapping })
}

/// Inserts an entry of a mapping: exactly one of several CPUs that try succeeds.
#[inline(always)]
pub fn insert_mapping<A: FamilyMaps>(
    key: &MappingKey<A>,
    mapping: &Mapping<A>,
) -> Result<(), InsertError> {
    // Before it is there: the filter may count one that is not there, and never lacks one that is.
    count_in_filter(key, 1);
    let inserted = A::mapping_map()
        .insert(key, mapping, aya_ebpf::bindings::BPF_NOEXIST.into())
        .map_err(insert_error);
    if inserted.is_err() {
        count_in_filter(key, u64::MAX);
    }
    inserted
}

/// Removes an entry of a mapping; false where it was gone already.
#[inline(always)]
pub fn remove_mapping<A: FamilyMaps>(key: &MappingKey<A>) -> bool {
    let is_removed = A::mapping_map().remove(key).is_ok();
    if is_removed {
        count_in_filter(key, u64::MAX);
    }
    is_removed
}

/// Whether the filter leaves it open that an entry with this key is there.
#[inline(always)]
fn may_be_mapped<A>(key: &MappingKey<A>) -> bool {
    MAPPING_FILTER
        .get_ptr(filter_place(key.instance, key.port))
        // SAFETY: an array element lives as long as the map, and an aligned word is read whole.
        .is_none_or(|count| unsafe { count.read_volatile() } != 0)
}

/// Counts an entry, or with `u64::MAX`, one less.
#[inline(always)]
fn count_in_filter<A>(key: &MappingKey<A>, change: u64) {
    if let Some(count) = MAPPING_FILTER.get_ptr_mut(filter_place(key.instance, key.port)) {
        // SAFETY: an array element lives as long as the map; it is only ever changed by atomic additions.
        unsafe { atomic_add(count, change) };
    }
}

/// The route to an address.
#[inline(always)]
pub fn route<A: FamilyMaps>(address: A) -> Option<&'static Route<A>> {
    A::route_map().get(&Key::new(A::BITS, address))
}

/// The slot of the guest that has an address, where guests may reach it by that.
#[inline(always)]
pub fn guest_slot<A: FamilyMaps>(address: A) -> Option<u32> {
    A::guests_map().get(&Key::new(A::BITS, address)).copied()
}

/// The client of a relay that has an address, or all of its network.
#[inline(always)]
pub fn client<A: FamilyMaps>(address: A) -> Option<Client> {
    let clients = A::clients_map();
    // The address first: another's may be the first one of this network.
    let client = match clients.get_ptr(address) {
        None if address.network() != address => clients.get_ptr(address.network())?,
        found => found?,
    };
    // SAFETY: the element stays readable until the program ends (RCU). It may become another client's meanwhile: whoever
    // asks looks at the records that it names.
    Some(unsafe { client.read_volatile() })
}

/// What a policy says of an address; `None` where the policy is not there.
#[inline(always)]
pub fn verdict<A: FamilyMaps>(policy: &PolicyId, address: A) -> Option<Verdict> {
    // SAFETY: the agent removes an entry only after a grace period in which no record named it any more, and the kernel
    // waits for another one when it does: no program that looks it up finds another's.
    let verdict = unsafe { A::policy_map().get_value(policy, &Key::new(A::BITS, address)) };
    verdict.map(|number| Verdict::from_number(*number))
}

/// That an address is open to an instance since a name led there.
#[inline(always)]
pub fn learned<A: FamilyMaps>(key: &LearnedKey<A>) -> Option<&'static mut Learned> {
    let learned = A::learned_map().get_ptr_mut(key)?;
    // SAFETY: the element stays readable and writable until the program ends (RCU); its time alone is changed, whole.
    Some(unsafe { &mut *learned })
}

/// The name servers that a slot's guest asked, to be read and changed; `None` where there is no room for them.
#[inline(always)]
pub fn asked<A: FamilyMaps>(slot: u32) -> Option<&'static mut Asked<A>> {
    if A::asked_map().get_ptr(slot).is_none() {
        // Another CPU may do so at the same time: then its entry stands.
        let flags = aya_ebpf::bindings::BPF_NOEXIST.into();
        A::asked_map().insert(slot, A::nobody_asked(), flags).ok();
    }
    let asked = A::asked_map().get_ptr_mut(slot)?;
    // SAFETY: nobody removes an element. Two CPUs may change it at once, and what they mix is the guest's own servers.
    Some(unsafe { &mut *asked })
}

/// The name servers that a slot's guest asked.
#[inline(always)]
pub fn asked_before<A: FamilyMaps>(slot: u32) -> Option<&'static Asked<A>> {
    let asked = A::asked_map().get_ptr(slot)?;
    // SAFETY: as in `asked`.
    Some(unsafe { &*asked })
}

/// What the first fragment of a packet said.
#[inline(always)]
pub fn first_fragment<A: FamilyMaps>(key: &FragmentKey<A>) -> Option<First> {
    let first = A::fragment_map().get_ptr(key)?;
    // SAFETY: the element stays readable until the program ends. It may become another packet's meanwhile: what is
    // read then leads to a flow between the same two addresses, or to none.
    Some(unsafe { first.read_volatile() })
}

/// Remembers a first fragment; false where there is no room.
#[inline(always)]
pub fn remember_fragment<A: FamilyMaps>(key: &FragmentKey<A>, first: &First) -> bool {
    A::fragment_map().insert(key, first, 0).is_ok()
}

#[inline(always)]
fn insert_error(code: i32) -> InsertError {
    const EEXIST: i32 = -17;
    if code == EEXIST {
        InsertError::Exists
    } else {
        InsertError::Full
    }
}

/// A function that the kernel calls for each element of a map: map, key, value and what was passed along.
/// It returns 1 to stop.
pub type Callback = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void, *mut c_void) -> i64;

/// Calls `callback` for each flow, passing `context`.
#[inline(always)]
pub fn for_each_flow<A: FamilyMaps, C>(callback: Callback, context: &mut C) {
    for_each(core::ptr::from_ref(A::flow_map()).cast(), callback, context);
}

/// Calls `callback` for each reverse entry, passing `context`.
#[inline(always)]
pub fn for_each_reverse<A: FamilyMaps, C>(callback: Callback, context: &mut C) {
    for_each(
        core::ptr::from_ref(A::reverse_map()).cast(),
        callback,
        context,
    );
}

/// Calls `callback` for each entry of a mapping, passing `context`.
#[inline(always)]
pub fn for_each_mapping<A: FamilyMaps, C>(callback: Callback, context: &mut C) {
    for_each(
        core::ptr::from_ref(A::mapping_map()).cast(),
        callback,
        context,
    );
}

#[inline(always)]
fn for_each<C>(map: *const c_void, callback: Callback, context: &mut C) {
    let callback = callback as *mut c_void;
    let context = core::ptr::from_mut(context).cast();
    // SAFETY: `map` is one of the maps above, and the callbacks of `collect.rs` take its key and value and a
    // context of type `C`.
    unsafe { aya_ebpf::helpers::bpf_for_each_map_elem(map.cast_mut(), callback, context, 0) };
}
