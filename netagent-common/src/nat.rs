//! Masquerade: the reverse table and the choice of a port.

use crate::wire;

wire! {
    /// A flow as the world sees it.
    pub struct ReverseKey<A> = 16 or 40 bytes {
        /// The other end's address.
        pub remote: A,
        /// The address that stands for the guest.
        pub nat_address: A,
        /// The other end's port.
        pub remote_port: [u8; 2],
        /// The port that stands for the guest's.
        pub nat_port: [u8; 2],
        /// Protocol number.
        pub protocol: u32,
    }
}

wire! {
    /// Whose flow it is: with the packet's remote address and port it gives the [`crate::flow::FlowKey`]. Of a flow that
    /// is established it also holds what a reply needs: with many flows, each look-up is one in cold memory.
    pub struct Reverse<A> = 32 or 44 bytes {
        /// A digest of the key: elements are used again at once, and whoever still reads one finds another flow in it.
        pub tag: u32,
        /// When its flow was last looked at, or the entry was made, which is right before the flow is; in ticks.
        pub seen: u32,
        /// Number of the instance.
        pub instance: u32,
        /// Slot to which replies go.
        pub slot: u32,
        /// Generation of that interface; 0 where the flow was not found established, or is no longer.
        pub generation: u32,
        /// Generation of the policy under which it was.
        pub policy_generation: u32,
        /// The guest's port.
        pub guest_port: [u8; 2],
        /// Unused.
        pub reserved: [u8; 2],
        /// The guest's address.
        pub guest: A,
    }
}

wire! {
    /// Key of both entries of an endpoint-independent mapping (RFC 4787, REQ-1), which UDP alone has. One says which port
    /// stands for a guest's, the other whose a port is: of the latter, `instance` is [`ANY_INSTANCE`], and `guest` repeats
    /// `nat_address`.
    pub struct MappingKey<A> = 16 or 40 bytes {
        /// Number of the instance, or [`ANY_INSTANCE`].
        pub instance: u32,
        /// The guest's address, or again the address that stands for it.
        pub guest: A,
        /// The address that stands for the guest.
        pub nat_address: A,
        /// The guest's port, or the port that stands for it.
        pub port: [u8; 2],
        /// 0.
        pub reserved: [u8; 2],
    }
}

/// Stands for the instance in the key of the entry that says whose a port is.
pub const ANY_INSTANCE: u32 = u32::MAX;

/// Places of the filter that is asked before the mappings: it is small enough to stay in the caches, where a table of all
/// mappings is cold memory to nearly every new flow.
pub const FILTER_PLACES: u32 = 8_192;

/// The place in that filter of a mapping's entry, by two parts of its key: ports beside each other have places beside each
/// other, and those of several instances lie apart. Where nothing is counted in it, there is no such entry.
#[must_use]
pub const fn filter_place(instance: u32, port: [u8; 2]) -> u32 {
    (u16::from_be_bytes(port) as u32 ^ spread(instance)) % FILTER_PLACES
}

wire! {
    /// An endpoint-independent mapping: both entries hold the same.
    pub struct Mapping<A> = 20 or 32 bytes {
        /// When the guest last sent through it, s of the monotonic clock: it stands in the entry that says whose the port
        /// is. The guest's own says when that was last written by a new flow.
        pub used_s: u32,
        /// Slot of the interface that opened it: what the world opens goes there.
        pub slot: u32,
        /// Generation of that interface.
        pub generation: u32,
        /// The guest's address.
        pub guest: A,
        /// The guest's port.
        pub guest_port: [u8; 2],
        /// The port that stands for it.
        pub nat_port: [u8; 2],
    }
}

/// Places in the array of fills: what is in the tables of the host.
pub mod fill {
    /// Flows, IPv4: as many as the last collection pass left.
    pub const FLOWS_V4: u32 = 0;
    /// Flows, IPv6.
    pub const FLOWS_V6: u32 = 1;
    /// Endpoint-independent mappings, IPv4.
    pub const MAPPINGS_V4: u32 = 2;
    /// Endpoint-independent mappings, IPv6.
    pub const MAPPINGS_V6: u32 = 3;
    /// Number of places.
    pub const COUNT: u32 = 4;
}

/// External ports by endpoint-independent mappings that one instance may have, where nothing else is configured (N-6).
pub const EIM_PORTS: u16 = 64;

/// Ports tried for a mapping before its flow gets one that is its own alone.
pub const MAPPING_TRIES: u32 = 16;

wire! {
    /// What an instance holds beside its open flows; counted by the programs.
    pub struct Holdings = 32 bytes {
        /// Closing flows.
        pub closing: u64,
        /// Endpoint-independent mappings.
        pub mapped: u64,
        /// When it last found no port, ns of the monotonic clock.
        pub exhausted_ns: u64,
        /// Unused: no element lies in two cache lines.
        pub reserved: u64,
    }
}

/// Ports tried for one flow before it is refused with `snat_exhausted`.
pub const PORT_TRIES: u32 = 128;

/// Ports tried while [`REST_NS`] has not passed since a flow of the same instance was refused: who has used up what it
/// may have does not keep the host searching, and among thousands of ports finds one towards any other remote all the
/// same.
pub const PORT_TRIES_AT_REST: u32 = 8;

/// How long that lasts, ns.
pub const REST_NS: u64 = 10_000_000;

/// Tries after which the oldest closing flow among them is as good as what more tries would find.
pub const REUSE_TRIES: u32 = 32;

/// Longest tick, which [`Reverse::seen`] counts in, ns.
pub const TICK_MAX_NS: u64 = 5_120_000_000;

/// A tick is `1 << tick_shift(jiffy_ns)` jiffies of the kernel's timer: three to five seconds, found without a call or a
/// division.
#[must_use]
pub const fn tick_shift(jiffy_ns: u64) -> u16 {
    let mut shift = 0;
    while shift < TICK_SHIFT_MAX && jiffy_ns << (shift + 1) <= TICK_MAX_NS {
        shift += 1;
    }
    shift
}

/// For a timer of 8,192 Hz, which no kernel has.
const TICK_SHIFT_MAX: u16 = 15;

/// Age below which a reverse entry without a flow is left alone, in ticks: its flow is being written.
pub const ORPHAN_AGE: u32 = 3;

/// An instance that holds fewer than this part of the range keeps its own ports wherever they lie in it.
const OWN_PART: u16 = 16;

/// The NAT range, and the window of it in which one instance looks for ports: so much of it that with the ports that
/// it keeps outside, an instance never holds more than half of the range towards one remote (N-5).
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug))]
pub struct Window {
    /// First port of the range.
    first: u16,
    /// Ports in the range, not 0.
    count: u16,
    /// Place in the range where the window starts; it goes on at the range's start.
    start: u16,
    /// Ports in the window, not 0.
    len: u16,
}

impl Window {
    /// The window of an instance in the range of `count` ports from `first`; `first + count` is at most 65,536. The
    /// windows of instances with numbers close to each other start far apart: two of them share what they must.
    #[must_use]
    pub const fn new(instance: u32, (first, count): (u16, u16)) -> Self {
        // A range without ports cannot be configured.
        let count = if count == 0 { 1 } else { count };
        let len = count / 2 - count / OWN_PART;
        Self {
            first,
            count,
            start: part_of(spread(instance), count),
            len: if len == 0 { 1 } else { len },
        }
    }

    /// Whether an instance that holds `held` flows keeps its own port where it is free.
    #[must_use]
    pub const fn keeps(&self, own: u16, held: u64) -> bool {
        if own < self.first || own - self.first >= self.count {
            return false;
        }
        let place = (own - self.first) as u32;
        let (start, count) = (self.start as u32, self.count as u32);
        let from_start = rest(place + count - start, count);
        from_start < self.len as u32 || held < (self.count / OWN_PART) as u64
    }

    /// The port of one try (RFC 6056). The window is cut into as many parts as there are tries, and from a part that
    /// depends on `seed` each try takes some port of the next: the first [`PORT_TRIES`] are different ports, as far as
    /// the window has so many, and never all in a neighbourhood that is in use.
    #[must_use]
    pub const fn candidate(&self, seed: u32, attempt: u32) -> u16 {
        let part = self.len / PORT_TRIES as u16;
        let stride = if part == 0 { 1 } else { part as u32 };
        let in_part = part_of(mixed(seed.wrapping_add(attempt)), part) as u32;
        let from_start = part_of(seed, self.len) as u32 + attempt * stride + in_part;
        let in_window = rest(from_start, self.len as u32);
        let place = rest(self.start as u32 + in_window, self.count as u32);
        self.first + place as u16
    }
}

/// Multiples of the golden ratio: taken as parts of a whole, they spread evenly.
const fn spread(number: u32) -> u32 {
    number.wrapping_mul(0x9e37_79b1)
}

/// Numbers close to each other become numbers far apart.
const fn mixed(number: u32) -> u32 {
    let number = (number ^ (number >> 16)).wrapping_mul(0x85eb_ca6b);
    (number ^ (number >> 13)).wrapping_mul(0xc2b2_ae35)
}

/// The rest of a division; by 0, which no window holds, 0: programs have nowhere to panic to.
const fn rest(number: u32, divisor: u32) -> u32 {
    match number.checked_rem(divisor) {
        Some(rest) => rest,
        None => 0,
    }
}

/// As large a part of `whole` as `part` is of 2^32: spread without a division.
const fn part_of(part: u32, whole: u16) -> u16 {
    ((part as u64 * whole as u64) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const RANGE: (u16, u16) = (16_384, 13_616);

    fn ports(window: Window, seed: u32) -> BTreeSet<u16> {
        let tries = PORT_TRIES.min(window.len.into());
        (0..tries)
            .map(|attempt| window.candidate(seed, attempt))
            .collect()
    }

    /// Every port of the window.
    fn all(window: Window) -> BTreeSet<u16> {
        let place =
            |number: u16| (u32::from(window.start) + u32::from(number)) % u32::from(window.count);
        (0..window.len)
            .map(|number| window.first + place(number) as u16)
            .collect()
    }

    #[test]
    fn a_tick_takes_three_to_five_seconds_whatever_the_timer() {
        for hertz in [100, 250, 300, 1_000] {
            let jiffy_ns = 1_000_000_000 / hertz;
            let tick_ns = jiffy_ns << tick_shift(jiffy_ns);
            assert!((3_000_000_000..=TICK_MAX_NS).contains(&tick_ns), "{hertz}");
        }
        assert!(tick_shift(0) < 32);
    }

    #[test]
    fn a_port_outside_the_range_is_not_kept() {
        let window = Window::new(7, RANGE);
        assert!(!window.keeps(16_383, 0) && !window.keeps(30_000, 0));
        assert!(window.keeps(16_384, 0) && window.keeps(29_999, 0));
    }

    #[test]
    fn neighbours_share_no_more_of_their_windows_than_they_must() {
        for instance in 0..1_000 {
            let (one, other) = (
                Window::new(instance, RANGE),
                Window::new(instance + 1, RANGE),
            );
            let shared = all(one).intersection(&all(other)).count();
            assert!(shared < usize::from(one.len) / 4, "{instance}: {shared}");
        }
    }

    #[test]
    fn every_port_of_a_window_is_tried_some_time() {
        let window = Window::new(3, (1_000, 400));
        let found: BTreeSet<u16> = (0..100_000_u32)
            .map(|seed| window.candidate(seed.wrapping_mul(0x9e37_79b1), 0))
            .collect();
        assert_eq!(found, all(window));
    }

    #[test]
    fn ports_beside_each_other_have_places_of_their_own_in_the_filter() {
        for instance in [0, 1, 2, ANY_INSTANCE] {
            let of_all: BTreeSet<u32> = (0..FILTER_PLACES)
                .map(|port| filter_place(instance, (20_000 + port as u16).to_be_bytes()))
                .collect();
            assert_eq!(of_all, (0..FILTER_PLACES).collect::<BTreeSet<u32>>());
        }
        let of_instances: BTreeSet<u32> = (0..FILTER_PLACES)
            .map(|instance| filter_place(instance, [0, 53]))
            .collect();
        assert_eq!(of_instances.len() as u32, FILTER_PLACES);
    }

    proptest! {
        #[test]
        fn every_candidate_lies_in_the_window(
            instance: u32, seed: u32, attempt in 0..PORT_TRIES, first in 1_u16..60_000, count in 1_u16..5_000,
        ) {
            let window = Window::new(instance, (first, count));
            let port = window.candidate(seed, attempt);
            prop_assert!(port >= first && port - first < count);
            prop_assert!(all(window).contains(&port));
            prop_assert!(window.keeps(port, u64::MAX), "what is found is what may be kept");
        }

        #[test]
        fn the_tries_of_one_flow_are_different_ports(
            instance: u32, seed: u32, first in 1_u16..30_000, count in 1_u16..30_000,
        ) {
            let window = Window::new(instance, (first, count));
            let tries = PORT_TRIES.min(window.len.into()) as usize;
            prop_assert_eq!(ports(window, seed).len(), tries);
        }

        #[test]
        fn no_instance_gets_more_than_half_of_the_range(instance: u32, first in 1_u16..30_000, count in 2_u16..3_000) {
            let window = Window::new(instance, (first, count));
            let kept = (first..first + count).filter(|port| window.keeps(*port, u64::MAX));
            let in_window: BTreeSet<u16> = kept.collect();
            prop_assert_eq!(&in_window, &all(window));
            // Beyond the window it keeps ports only as long as it holds fewer than this.
            let outside = u64::from(count / OWN_PART);
            for port in (first..first + count).filter(|port| !in_window.contains(port)) {
                prop_assert!(!window.keeps(port, outside));
            }
            prop_assert!(in_window.len() as u64 + outside <= u64::from(count / 2).max(1));
        }
    }

    extern crate std;
}
