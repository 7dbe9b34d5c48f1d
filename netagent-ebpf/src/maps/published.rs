//! Published and exposed ports, the sockets of the host that were led to them, and ports of the host itself.
#![allow(
    unsafe_code,
    reason = "the one place where map values are dereferenced"
)]

use aya_ebpf::btf_maps::lpm_trie::Key;
use netagent_common::publish::{
    ExposedKey, HostPortKey, Led, LedKey, PublishKey, Published, SenderKey,
};

use crate::maps::{EXPOSED, FamilyMaps, HOST_PORTS, LED_SOCKETS};

/// Where a published port leads.
#[inline(always)]
pub fn published<A: FamilyMaps>(key: &PublishKey<A>) -> Option<&'static Published<A>> {
    let published = A::published_map().get_ptr(key)?;
    // SAFETY: the element stays readable until the program ends (RCU), and nobody changes it: an entry that leads
    // elsewhere is another element.
    Some(unsafe { &*published })
}

/// Whether an address may use the limited publication of this number.
#[inline(always)]
pub fn is_sender<A: FamilyMaps>(id: u32, address: A) -> bool {
    let key = SenderKey { id, address };
    let bits = u32::BITS + A::BITS;
    A::senders_map().get(&Key::new(bits, key)).is_some()
}

/// Whether the host may open a connection to this port of the instance, in this life of it.
#[inline(always)]
pub fn is_exposed(key: &ExposedKey, generation: u32) -> bool {
    let Some(exposed) = EXPOSED.get_ptr(key) else {
        return false;
    };
    // SAFETY: the element stays readable until the program ends (RCU), and an aligned word is read whole.
    unsafe { exposed.read_volatile() == generation }
}

/// Whether guests may reach the host's listener at this port.
#[inline(always)]
pub fn is_host_port(key: &HostPortKey) -> bool {
    HOST_PORTS.get_ptr(key).is_some()
}

/// What a socket of the host asked for when it was led to a guest.
#[inline(always)]
pub fn led(key: &LedKey) -> Option<Led> {
    let led = LED_SOCKETS.get_ptr(key)?;
    // SAFETY: the element stays readable until the program ends (RCU); a socket's entry is written before it sends.
    Some(unsafe { led.read() })
}

/// Notes what a socket of the host asked for that is led to a guest; false where that cannot be kept.
#[inline(always)]
pub fn lead(key: &LedKey, led: &Led) -> bool {
    LED_SOCKETS.insert(key, led, 0).is_ok()
}
