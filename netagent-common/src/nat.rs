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
    /// Whose flow it is: with the packet's remote address and port it gives the [`crate::flow::FlowKey`].
    pub struct Reverse<A> = 16 or 28 bytes {
        /// Time of creation, s of the monotonic clock: the flow is written right after.
        pub created_s: u32,
        /// Number of the instance.
        pub instance: u32,
        /// The guest's port.
        pub guest_port: [u8; 2],
        /// Unused.
        pub reserved: [u8; 2],
        /// The guest's address.
        pub guest: A,
    }
}

/// Ports tried for one flow before it is refused with `snat_exhausted`.
pub const PORT_TRIES: u32 = 128;

/// Age below which a reverse entry without a flow is left alone: its flow is being written.
pub const ORPHAN_AGE_S: u32 = 10;

/// The port to try: first the guest's own where it lies in the range, then ports from a start that depends
/// on `seed`, one after the other.
///
/// `count` is not 0, and `first + count` is at most 65,536.
#[must_use]
pub const fn candidate(own: u16, seed: u32, attempt: u32, (first, count): (u16, u16)) -> u16 {
    let own_fits = own >= first && (own - first) < count;
    if own_fits && attempt == 0 {
        return own;
    }
    // The high half of the product spreads a 32-bit seed over the range without a division.
    let start = ((seed as u64 * count as u64) >> 32) as u32;
    // A range without ports cannot be configured; said here so that the division needs no panic.
    let count = if count == 0 { 1 } else { count as u32 };
    first + ((start + attempt) % count) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_own_port_is_kept_where_it_fits() {
        assert_eq!(candidate(20_000, 1, 0, (16_384, 13_616)), 20_000);
        assert_ne!(candidate(20_000, 1, 1, (16_384, 13_616)), 20_000);
        assert_eq!(candidate(40_000, 0, 0, (16_384, 13_616)), 16_384);
    }

    proptest! {
        #[test]
        fn every_candidate_lies_in_the_range(
            own: u16, seed: u32, attempt in 0..PORT_TRIES, first in 1_u16..60_000, count in 1_u16..5_000,
        ) {
            let port = candidate(own, seed, attempt, (first, count));
            prop_assert!(port >= first && port < first + count);
        }

        #[test]
        fn the_tries_of_one_flow_are_different_ports(seed: u32, first in 1_u16..50_000, count in 128_u16..10_000) {
            let mut ports: std::collections::BTreeSet<u16> = std::collections::BTreeSet::new();
            for attempt in 0..PORT_TRIES {
                ports.insert(candidate(0, seed, attempt, (first, count)));
            }
            prop_assert_eq!(ports.len(), PORT_TRIES as usize);
        }
    }

    extern crate std;
}
