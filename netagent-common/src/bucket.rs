//! What the limits of an instance allow (P-11, P-13): token buckets, each in one number, the time up to which everything
//! is paid (the generic cell rate algorithm). No lock is needed: a program reads the number, and replaces it where it is
//! still the same.

use crate::limit::Rate;
use crate::wire;

/// The clock that the programs read lags behind by ticks, of 10 ms at most, and they read the exact one where it matters.
const CLOCKS_APART_NS: u64 = 20_000_000;

wire! {
    /// What one instance owes, over all its interfaces.
    pub struct Buckets = 128 bytes {
        /// For what it sent.
        pub from_vm: Owed,
        /// For what it received.
        pub to_vm: Owed,
    }
}

wire! {
    /// Times, ns of the monotonic clock, up to which everything is paid. As far apart as processors that work on both
    /// directions at once do not disturb each other.
    pub struct Owed = 64 bytes {
        /// By bytes.
        pub bytes_ns: u64,
        /// By packets.
        pub packets_ns: u64,
        /// Keeps the distance.
        pub reserved: [u64; 6],
    }
}

/// Up to when everything is paid once this amount, of at most `amount_max`, is charged as well; `None` where more would be
/// owed than may be.
///
/// What costs more than a burst, a super-frame at a low rate, passes after a silence that makes up for the difference: so
/// in no time more passes than the rate and one burst. More than a burst and such a packet is owed only where the rate was
/// lower until now: that is forgiven.
#[inline(always)]
#[must_use]
pub const fn charge(
    rate: &Rate,
    (amount, amount_max): (u32, u32),
    paid_ns: u64,
    now_ns: u64,
) -> Option<u64> {
    let cost = rate.cost_ns(amount);
    let most_ns = now_ns + rate.burst_ns;
    let possible_ns = most_ns + rate.cost_ns(amount_max) + CLOCKS_APART_NS;
    if paid_ns > possible_ns {
        return Some(now_ns + cost);
    }
    if paid_ns + cost > most_ns {
        return None;
    }
    Some(if paid_ns > now_ns { paid_ns } else { now_ns } + cost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::SUPER_FRAME_LEN;

    const SECOND_NS: u64 = 1_000_000_000;
    const BURST_NS: u64 = 225_000_000;
    /// Far from 0, as a clock is.
    const START_NS: u64 = 1 << 50;
    const MEGABIT: u64 = 1_000_000;

    /// Numbers as good as random ones (Marsaglia's xorshift).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, end: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % end
        }
    }

    fn charged(rate: &Rate, amount: u32, paid_ns: u64, now_ns: u64) -> Option<u64> {
        charge(rate, (amount, SUPER_FRAME_LEN), paid_ns, now_ns)
    }

    fn rate(bits_per_second: u64) -> Rate {
        Rate {
            price: ((8 * SECOND_NS) << 20) / bits_per_second,
            burst_ns: BURST_NS,
        }
    }

    /// Bytes that pass in a time, of packets up to `len_max` with random gaps up to `gap_max_ns`; and bytes that wanted to.
    fn passed(
        rate: &Rate,
        seed: u64,
        (len_max, gap_max_ns, time_ns): (u64, u64, u64),
    ) -> (u64, u64) {
        let mut numbers = Numbers(seed);
        let (mut now, mut paid, mut passed, mut wanted) = (START_NS, 0, 0, 0);
        while now < START_NS + time_ns {
            let len = 60 + numbers.below(len_max - 59) as u32;
            wanted += u64::from(len);
            if let Some(new) = charged(rate, len, paid, now) {
                (paid, passed) = (new, passed + u64::from(len));
            }
            now += numbers.below(gap_max_ns + 1);
        }
        (passed, wanted)
    }

    fn check_never_more(bits_per_second: u64, len_max: u64) {
        let rate = rate(bits_per_second);
        let time_ns = 2 * SECOND_NS;
        // Twice and thirty times what the rate allows, and all at once.
        let mean_ns = len_max * 8 * SECOND_NS / bits_per_second;
        for (seed, gap_max_ns) in [(1, mean_ns / 2), (2, mean_ns / 30), (3, 4 * mean_ns)] {
            let (passed, _) = passed(&rate, seed, (len_max, gap_max_ns.max(1_000), time_ns));
            let of_time = bits_per_second / 8 * (time_ns / SECOND_NS);
            let of_burst = bits_per_second / 8 * BURST_NS / SECOND_NS;
            // The price is rounded down, by less than a byte in a hundred thousand.
            let rounding = of_time / 100_000 + 1;
            let most = of_time + of_burst + rounding;
            assert!(
                passed <= most,
                "{bits_per_second} bit/s, {len_max}: {passed} > {most}"
            );
        }
    }

    #[test]
    fn never_more_passes_than_the_rate_and_one_burst() {
        for bits_per_second in [MEGABIT, 50 * MEGABIT, 1_000 * MEGABIT] {
            check_never_more(bits_per_second, 1_514);
            check_never_more(bits_per_second, 65_550);
        }
    }

    #[test]
    fn all_of_a_demand_above_the_rate_is_used() {
        for bits_per_second in [MEGABIT, 50 * MEGABIT, 1_000 * MEGABIT] {
            let gap_max_ns = 1_514 * 8 * SECOND_NS / bits_per_second;
            let (passed, _) = passed(
                &rate(bits_per_second),
                4,
                (1_514, gap_max_ns / 2, 4 * SECOND_NS),
            );
            let of_time = bits_per_second / 8 * 4;
            assert!(
                passed >= of_time - 1_514,
                "{bits_per_second} bit/s: {passed} < {of_time}"
            );
        }
    }

    #[test]
    fn nothing_of_a_demand_below_the_rate_is_refused() {
        for bits_per_second in [MEGABIT, 50 * MEGABIT, 1_000 * MEGABIT] {
            // On the average nine tenths of the rate.
            let gap_max_ns = 2 * (60 + 1_514) / 2 * 8 * SECOND_NS / bits_per_second * 10 / 9;
            let (passed, wanted) = passed(
                &rate(bits_per_second),
                5,
                (1_514, gap_max_ns, 4 * SECOND_NS),
            );
            assert_eq!(passed, wanted, "{bits_per_second} bit/s");
        }
    }

    #[test]
    fn a_super_frame_that_is_more_than_a_burst_passes_after_a_silence_and_is_paid_for() {
        let rate = rate(MEGABIT);
        let cost = rate.cost_ns(65_550);
        assert!(cost > BURST_NS);
        let silence_ns = cost - BURST_NS;
        assert_eq!(
            charged(&rate, 65_550, START_NS, START_NS + silence_ns - 1),
            None
        );
        let now = START_NS + silence_ns;
        let paid = charged(&rate, 65_550, START_NS, now);
        assert_eq!(paid, Some(now + cost));
        assert_eq!(charged(&rate, 60, now + cost, now + silence_ns), None);
    }

    #[test]
    fn what_is_owed_at_a_lower_rate_is_forgiven_at_a_higher_one() {
        let paid = charged(&rate(1_000), 1_514, 0, START_NS).expect("nothing is owed");
        let fast = rate(1_000 * MEGABIT);
        let forgiven = START_NS + fast.cost_ns(1_514);
        assert_eq!(charged(&fast, 1_514, paid, START_NS), Some(forgiven));
    }

    #[test]
    fn what_is_owed_by_the_exact_clock_is_not_forgiven_by_one_that_lags_behind() {
        const TICK_NS: u64 = 10_000_000;
        let rate = rate(1_000 * MEGABIT);
        let paid = START_NS + BURST_NS;
        assert_eq!(charged(&rate, 1_514, paid, START_NS - TICK_NS), None);
    }
}
