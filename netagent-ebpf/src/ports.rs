//! Which port stands for a guest's: found, claimed, and taken over from a closing flow.
#![allow(unsafe_code, reason = "the kernel calls back with a raw pointer")]

use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, FlowKey, FlowState, Place};
use netagent_common::nat::{
    PORT_TRIES, PORT_TRIES_AT_REST, REST_NS, REUSE_TRIES, ReverseKey, Window,
};

use crate::family::Family;
use crate::kernel::{self, Skb};
use crate::maps::{self, InsertError};
use crate::{conntrack, mapping, nat};

/// What the tries of one flow share. It lies on the stack below that of a try: keys are made there.
struct Search<'a, A> {
    skb: Skb,
    flow: &'a FlowKey<A>,
    nat_address: &'a A,
    seed: u32,
    /// One of the constants below and a port, or 0 while no port was free. Whole words, of which the verifier can
    /// forget what it knows.
    outcome: u64,
    /// When the oldest closing flow of the same instance among those tried was last heard of. It stands between two words
    /// that start as 0: side by side, these would be cleared by a call, byte by byte.
    closing_ns: u64,
    /// The port of that flow, or 0.
    closing: u64,
}

impl<A> Search<'_, A> {
    /// Makes one try look like another to the verifier.
    #[inline(always)]
    fn forget(&mut self) {
        kernel::forget_in(&mut self.outcome);
        kernel::forget_in(&mut self.closing);
        kernel::forget_in(&mut self.closing_ns);
    }
}

const CLAIMED: u32 = 1 << 16;
const FULL: u32 = 2 << 16;
/// The port is a closing flow's.
const CLOSING: u32 = 3 << 16;

/// Claims a port for a new flow: the guest's own where it is free and may be kept, else a free one of the instance's
/// window, else that of a closing flow of the same instance.
///
/// Searching and taking over are functions of their own so that their stacks lie in the same place. Their answers are
/// one of the constants above and a port, or 0.
///
/// # Errors
/// [`DropReason::SnatExhausted`] and [`DropReason::FlowTableFull`].
#[inline(always)]
pub fn claim<A: Family>(skb: Skb, key: &FlowKey<A>, nat_address: &A) -> Result<u16, DropReason> {
    let mut found = search(skb, key, nat_address);
    if found & !PORT == CLOSING {
        found = take_over(skb, key, nat_address, found & PORT);
    }
    match found & !PORT {
        CLAIMED => Ok(found as u16),
        FULL => Err(DropReason::FlowTableFull),
        _ => Err(DropReason::SnatExhausted),
    }
}

const PORT: u32 = 0xffff;

#[inline(never)]
fn search<A: Family>(skb: Skb, key: &FlowKey<A>, nat_address: &A) -> u32 {
    let Some(holdings) = maps::holdings(key.instance) else {
        return 0;
    };
    // The verifier follows the tries until they find the search as one before them did: what it knows of it at the
    // start would be one more state.
    let mut search = Search {
        skb,
        flow: key,
        nat_address,
        seed: kernel::random(),
        outcome: 0,
        closing_ns: u64::MAX,
        closing: 0,
    };
    search.forget();
    let now = kernel::now_ns();
    let is_at_rest = now.wrapping_sub(holdings.exhausted_ns) < REST_NS;
    let tries = if is_at_rest {
        PORT_TRIES_AT_REST
    } else {
        PORT_TRIES
    };
    kernel::repeat(tries, try_port::<A>, &mut search);
    if search.outcome != 0 {
        return search.outcome as u32;
    }
    if search.closing != 0 {
        return CLOSING | search.closing as u32;
    }
    if !is_at_rest {
        holdings.exhausted_ns = now;
    }
    0
}

/// The port of one try: the guest's own first, where it may be kept.
#[inline(always)]
pub fn candidate<A: Family>(flow: &FlowKey<A>, seed: u32, attempt: u32) -> u16 {
    let window = Window::new(flow.instance, maps::nat_ports());
    let own = u16::from_be_bytes(flow.guest_port);
    if attempt == 0 && window.keeps(own, maps::flows_held(flow.instance)) {
        own
    } else {
        window.candidate(seed, attempt)
    }
}

/// One try: stops with 1.
unsafe extern "C" fn try_port<A: Family>(attempt: u64, search: *mut Search<'_, A>) -> i64 {
    const GO_ON: i64 = 0;
    const STOP: i64 = 1;
    // SAFETY: the kernel passes the search of the function above, which nobody else uses meanwhile.
    let search = unsafe { &mut *search };
    let attempt = attempt as u32;
    let port = candidate(search.flow, search.seed, attempt);
    let reverse_key = nat::key_of_port(search.flow, (*search.nat_address, port.to_be_bytes()));
    match try_to_claim(search.skb, &reverse_key, search.flow) {
        0 => {}
        outcome => {
            search.outcome = (outcome | u32::from(port)).into();
            search.forget();
            return STOP;
        }
    }
    if let Some((_, flow)) = closing_holder(&reverse_key, search.flow.instance)
        && flow.last_seen_ns < search.closing_ns
    {
        (search.closing, search.closing_ns) = (port.into(), flow.last_seen_ns);
    }
    search.forget();
    if attempt >= REUSE_TRIES && search.closing != 0 {
        STOP
    } else {
        GO_ON
    }
}

/// Claims a port, where it is nobody's.
#[inline(always)]
fn try_to_claim<A: Family>(skb: Skb, key: &ReverseKey<A>, flow: &FlowKey<A>) -> u32 {
    if mapping::is_anothers(key, flow) {
        return 0;
    }
    match nat::claim(flow, key) {
        Err(InsertError::Exists) => 0,
        Err(InsertError::Full) => FULL,
        Ok(()) if nat::is_the_hosts(skb, key) => {
            maps::remove_reverse(key);
            0
        }
        Ok(()) => CLAIMED,
    }
}

/// The closing flow of this instance that holds a port.
#[inline(always)]
fn closing_holder<A: Family>(
    reverse_key: &ReverseKey<A>,
    instance: u32,
) -> Option<(FlowKey<A>, &'static mut Flow<A>)> {
    let holder = maps::reverse(reverse_key)?;
    if holder.instance != instance {
        return None;
    }
    let key = nat::flow_key(reverse_key, holder);
    let flow = maps::flow(&key)?;
    let is_closing = FlowState::from_number(flow.state).place() == Some(Place::Closing);
    (is_closing && flow.nat_port == reverse_key.nat_port).then_some((key, flow))
}

/// Ends the closing flow that was found, and claims its port as any other: another CPU may be faster, and then there
/// is none.
#[inline(never)]
fn take_over<A: Family>(skb: Skb, key: &FlowKey<A>, nat_address: &A, port: u32) -> u32 {
    let nat_port = (port as u16).to_be_bytes();
    let reverse_key = nat::key_of_port(key, (*nat_address, nat_port));
    let Some((old, flow)) = closing_holder(&reverse_key, key.instance) else {
        return 0;
    };
    let is_counted =
        maps::record(flow.slot).is_ok_and(|interface| interface.generation == flow.generation);
    if !conntrack::retire(flow, is_counted.then_some(old.instance))
        || !conntrack::remove(&old, flow)
    {
        return 0;
    }
    try_to_claim(skb, &reverse_key, key) | port
}
