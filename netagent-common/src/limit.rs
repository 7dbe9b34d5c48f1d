//! Sizes of the maps where the configuration does not say otherwise, and what one interface may use up.

use crate::wire;

/// Flows of the whole host, for each family.
pub const FLOWS_MAX: u32 = 262_144;
/// Entries of the endpoint-independent mappings of the whole host, for each family: one for every so many flows.
pub const FLOWS_PER_MAPPING: u32 = 4;
/// Flows of one instance (N-5).
pub const FLOWS_PER_INSTANCE: u32 = 8_192;
/// Segments of one super-frame: 64 KB in segments of 256 bytes.
pub const SEGMENTS_MAX: u32 = 256;
/// Routes of the host, for each family.
pub const ROUTES_MAX: u32 = 16_384;
/// Compiled policies that are in force or being put in force: twice what the instances have.
pub const POLICIES_MAX: u32 = 32_768;
/// Networks in each list of one instance's policy.
pub const POLICY_ENTRIES_MAX: usize = 100_000;
/// Packets that an instance may be allowed in a second: more than any path carries.
pub const PACKETS_PER_SECOND_MAX: u64 = 100_000_000;
/// Drop counters: one for each interface and reason seen.
pub const DROPS_MAX: u32 = 262_144;
/// Fragmented packets on their way, for each family.
pub const FRAGMENTS_MAX: u32 = 65_536;

/// ICMP errors that the programs make for one interface in a second, and at once.
pub const ICMP_ERRORS_PER_SECOND: (u64, u64) = (100, 50);
/// Fragmented packets of one interface in a second, and at once: less than the table holds while they are
/// remembered.
pub const FRAGMENTED_PER_SECOND: (u64, u64) = (4_096, 4_096);

wire! {
    /// A rate, as the programs reckon: what comes is paid in time.
    pub struct Rate = 16 bytes {
        /// Price of one byte, or of one packet, in 2^-20 ns; 0 where there is no limit.
        pub price: u64,
        /// What may be owed at once, ns.
        pub burst_ns: u64,
    }
}

/// Bits of a price behind the point.
pub const PRICE_SHIFT: u32 = 20;
/// How long a sender may have been silent to make up for it at once, ns. One whose window was lost is silent for a little
/// more than 200 ms, the shortest time after which Linux sends again: so one TCP connection alone, however short its way,
/// comes near the rate, though nothing is ever delayed.
const BURST_NS: u64 = 225_000_000;
/// A frame of an ordinary link, bytes: it may come at once, however slow the rate.
const BURST_LEN: u64 = 2_048;
/// Packets that may come at once, however few are allowed in a second.
const BURST_PACKETS: u64 = 64;
/// What passes in the long run of a rate in bits, in thousandths: so in ten seconds that begin with a burst it is 9.96 s and
/// 0.225 s of it, less than 2 % too much (P-11).
const PASSING: u64 = 996;
/// Headers of a segment at most: Ethernet, IPv6, TCP with all its options.
const SEGMENT_HEADERS_LEN: u32 = 14 + 40 + 60;
/// Bytes on the wire of the longest packet in as many segments as are taken, each with headers of its own.
pub const SUPER_FRAME_LEN: u32 = 65_536 + SEGMENTS_MAX * SEGMENT_HEADERS_LEN;

impl Rate {
    /// No limit.
    pub const NONE: Self = Self {
        price: 0,
        burst_ns: 0,
    };

    /// So many bits in a second and hardly less; from 1,000 to 10^11.
    #[must_use]
    pub const fn of_bits(per_second: u64) -> Self {
        Self::of((8_000, per_second * PASSING), BURST_LEN)
    }

    /// So many packets in a second and not one more; from 1 to [`PACKETS_PER_SECOND_MAX`].
    #[must_use]
    pub const fn of_packets(per_second: u64) -> Self {
        Self::of((1, per_second), BURST_PACKETS)
    }

    /// Twice as much in a second, and at once.
    #[must_use]
    pub const fn doubled(self) -> Self {
        Self {
            price: self.price.div_ceil(2),
            burst_ns: self.burst_ns,
        }
    }

    /// One thing takes so many units, of which a second has `per_second`; so many things may come at once.
    const fn of((units, per_second): (u64, u64), at_once: u64) -> Self {
        let price = ((units * 1_000_000_000) as u128) << PRICE_SHIFT;
        let price = price.div_ceil(per_second as u128) as u64;
        let burst_ns = (price * at_once).div_ceil(1 << PRICE_SHIFT);
        Self {
            price,
            burst_ns: if burst_ns > BURST_NS {
                burst_ns
            } else {
                BURST_NS
            },
        }
    }

    /// What so many bytes or packets cost, ns: at least what the rate says.
    #[inline(always)]
    #[must_use]
    pub const fn cost_ns(&self, count: u32) -> u64 {
        let cost = self.price.wrapping_mul(count as u64);
        cost.wrapping_add((1 << PRICE_SHIFT) - 1) >> PRICE_SHIFT
    }
}

wire! {
    /// What one interface has used up: times, ns of the monotonic clock, up to which everything is paid.
    pub struct Used = 16 bytes {
        /// Of [`ICMP_ERRORS_PER_SECOND`].
        pub icmp_errors_ns: u64,
        /// Of [`FRAGMENTED_PER_SECOND`].
        pub fragmented_ns: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 kbit/s to 100 gbit/s, ten steps to each power of ten.
    fn bit_rates() -> impl Iterator<Item = u64> {
        let powers = (3..11).map(|power| 10_u64.pow(power));
        let steps =
            powers.flat_map(|power| (10..100).step_by(9).map(move |step| power / 10 * step));
        steps.chain([
            1_001,
            999_999,
            1_000_000_000,
            99_999_999_999,
            100_000_000_000,
        ])
    }

    #[test]
    fn a_rate_is_never_exceeded_and_hardly_missed() {
        for bits in bit_rates() {
            let rate = Rate::of_bits(bits);
            // Bytes that a second pays for, in 2^-20 of a byte.
            let paid = (1_000_000_000_u128 << PRICE_SHIFT << PRICE_SHIFT) / u128::from(rate.price);
            let asked = (u128::from(bits) << PRICE_SHIFT) / 8 * u128::from(PASSING) / 1_000;
            assert!(paid <= asked + 1, "{bits}: {paid} > {asked}");
            assert!(paid >= asked - asked / 10_000, "{bits}: {paid} << {asked}");
        }
        for packets in [1, 3, 7_777, 1_000_000, PACKETS_PER_SECOND_MAX] {
            let rate = Rate::of_packets(packets);
            let paid = (1_000_000_000_u128 << PRICE_SHIFT) / u128::from(rate.price);
            assert!(paid <= u128::from(packets), "{packets}");
            assert!(paid + 1 >= u128::from(packets), "{packets}: {paid}");
        }
    }

    #[test]
    fn ten_seconds_and_a_burst_are_two_percent_too_much_at_most() {
        let promised = bit_rates().filter(|bits| *bits >= 1_000_000);
        for bits in promised {
            let rate = Rate::of_bits(bits);
            let time_ns = u128::from(10_000_000_000 + rate.burst_ns);
            let bytes = (time_ns << PRICE_SHIFT) / u128::from(rate.price);
            assert!(bytes * 8 * 100 <= u128::from(bits) * 10 * 102, "{bits}");
        }
    }

    #[test]
    fn a_frame_passes_at_once_at_every_rate_and_no_super_frame_overflows() {
        for bits in bit_rates() {
            let rate = Rate::of_bits(bits);
            let most = rate.price.checked_mul(SUPER_FRAME_LEN.into());
            assert!(most.is_some(), "{bits}");
            assert!(rate.cost_ns(BURST_LEN as u32) <= rate.burst_ns, "{bits}");
            assert!(rate.burst_ns >= BURST_NS, "{bits}");
        }
        assert_eq!(Rate::of_bits(100_000_000_000).burst_ns, BURST_NS);
        assert_eq!(Rate::of_packets(1).burst_ns, 64_000_000_000);
        assert_eq!(Rate::of_packets(PACKETS_PER_SECOND_MAX).burst_ns, BURST_NS);
    }

    #[test]
    fn a_megabit_is_eight_microseconds_a_byte_and_a_little() {
        assert_eq!(Rate::of_bits(1_000_000).cost_ns(1_000), 8_032_129);
        assert_eq!(Rate::of_packets(1_000).cost_ns(1), 1_000_000);
    }

    #[test]
    fn a_cost_is_at_least_what_the_rate_says_and_no_ns_more() {
        for bits in bit_rates() {
            let rate = Rate::of_bits(bits);
            for count in [1, 64, 1_514, SUPER_FRAME_LEN] {
                let exact = u128::from(rate.price) * u128::from(count);
                let cost = u128::from(rate.cost_ns(count));
                let is_near = cost << PRICE_SHIFT >= exact && (cost - 1) << PRICE_SHIFT < exact;
                assert!(is_near, "{bits}: {count}");
            }
        }
    }
}
