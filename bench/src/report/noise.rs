//! Whether two series of rounds differ by more than chance and by more than is worth a word.

use crate::figures::Figures;

/// Medians that are nearer to each other than this are not told apart, however sure the difference is.
pub const SMALLEST: f64 = 0.05;
/// How often chance alone may look like a difference.
const CHANCE: f64 = 0.01;
/// With fewer rounds than this on a side, no order of them is rarer than [`CHANCE`].
const ROUNDS_MIN: usize = 5;
/// Values of both sides for which every order is counted.
const COUNTED_MAX: usize = 30;
/// Standard deviations outside of which a normal distribution is in [`CHANCE`] of cases.
const DEVIATIONS: f64 = 2.576;

/// Whether the medians differ by more than [`SMALLEST`], and the rounds by more than noise.
///
/// The test is that of Mann and Whitney, two-sided, which asks nothing of how values are distributed: it sees how often
/// a value of one side is above one of the other. With fewer than five rounds on a side it cannot be sure of anything;
/// there the ranges must not touch.
#[must_use]
pub fn is_beyond(one: &[f64], other: &[f64]) -> bool {
    let [one, other] = [one, other].map(|rounds| rounds.iter().copied().collect::<Figures>());
    if one.values().is_empty() || other.values().is_empty() {
        return false;
    }
    let (before, after) = (one.median(), other.median());
    let is_large = (after - before).abs() > SMALLEST * before.abs();
    is_large && are_apart(&one, &other)
}

fn are_apart(one: &Figures, other: &Figures) -> bool {
    let counts = [one, other].map(|figures| figures.values().len());
    if counts.iter().any(|count| *count < ROUNDS_MIN) {
        return one.quantile(1.0) < other.quantile(0.0) || other.quantile(1.0) < one.quantile(0.0);
    }
    let ranks = ranks(one.values(), other.values());
    if ranks.len() > COUNTED_MAX {
        deviations(&ranks, counts[0]).abs() > DEVIATIONS
    } else {
        chance(&ranks, counts[0]) < CHANCE
    }
}

/// Twice the rank of each value among all, those of `one` first; equal values share the middle of their ranks.
fn ranks(one: &[f64], other: &[f64]) -> Vec<usize> {
    let all: Vec<f64> = one.iter().chain(other).copied().collect();
    let rank = |value: &f64| {
        let below = all.iter().filter(|other| *other < value).count();
        let equal = all.iter().filter(|other| *other == value).count();
        2 * below + equal + 1
    };
    all.iter().map(rank).collect()
}

/// How likely a sum of the first ranks that is as far from the middle is where chance alone dealt them out.
fn chance(ranks: &[usize], first: usize) -> f64 {
    let total: usize = ranks.iter().sum();
    // ways[n][s]: choices of n ranks whose sum is s.
    let mut ways = vec![vec![0.0_f64; total + 1]; first + 1];
    ways[0][0] = 1.0;
    for rank in ranks {
        for chosen in (1..=first).rev() {
            for sum in (*rank..=total).rev() {
                ways[chosen][sum] += ways[chosen - 1][sum - rank];
            }
        }
    }
    let middle = total as f64 * first as f64 / ranks.len() as f64;
    let seen: usize = ranks.iter().take(first).sum();
    let distance = (seen as f64 - middle).abs();
    let all: f64 = ways[first].iter().sum();
    let sums = ways[first].iter().enumerate();
    let as_far = sums.filter(|(sum, _)| (*sum as f64 - middle).abs() >= distance - 1e-9);
    as_far.map(|(_, count)| count).sum::<f64>() / all
}

/// How many standard deviations the sum of the first ranks is from the middle.
fn deviations(ranks: &[usize], first: usize) -> f64 {
    let (all, first_count) = (ranks.len() as f64, first as f64);
    let mean = ranks.iter().sum::<usize>() as f64 / all;
    let squares: f64 = ranks.iter().map(|rank| (*rank as f64 - mean).powi(2)).sum();
    // Of a sum of ranks drawn without putting back; equal values are in the squares already.
    let variance = first_count * (all - first_count) / (all * (all - 1.0)) * squares;
    let seen: usize = ranks.iter().take(first).sum();
    let distance = seen as f64 - mean * first_count;
    if variance > 0.0 {
        distance / variance.sqrt()
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_rounds_that_are_apart_differ() {
        let one = [100.0, 101.0, 102.0, 103.0, 104.0, 105.0, 106.0];
        let other = one.map(|value| value * 1.1);
        assert!(is_beyond(&one, &other));
        assert!(is_beyond(&other, &one));
    }

    #[test]
    fn what_is_small_or_overlaps_does_not() {
        let one = [100.0, 100.1, 100.2, 100.3, 100.4, 100.5, 100.6];
        assert!(!is_beyond(&one, &one.map(|value| value + 4.0)), "4 %");
        let one = [100.0, 130.0, 90.0, 120.0, 80.0, 110.0, 95.0];
        let other = [112.0, 140.0, 85.0, 125.0, 99.0, 118.0, 93.0];
        assert!(!is_beyond(&one, &other));
    }

    #[test]
    fn one_round_among_the_others_hides_no_difference() {
        let one = [100.0, 101.0, 102.0, 103.0, 104.0, 105.0, 202.5];
        let other = [200.0, 201.0, 202.0, 203.0, 204.0, 205.0, 206.0];
        assert!(is_beyond(&one, &other));
    }

    #[test]
    fn few_rounds_must_not_touch() {
        assert!(is_beyond(&[1.0, 1.1], &[1.3, 1.4]));
        assert!(!is_beyond(&[1.0, 1.3], &[1.2, 1.6]));
        assert!(is_beyond(&[1.0], &[2.0]));
        assert!(!is_beyond(&[], &[1.0]));
    }

    #[test]
    fn the_exact_chance_is_that_of_the_tables() {
        // Seven against seven, all of one side below: two of C(14, 7) = 3,432 orders.
        let one: Vec<f64> = (0..7).map(f64::from).collect();
        let other: Vec<f64> = (7..14).map(f64::from).collect();
        let chance = chance(&ranks(&one, &other), 7);
        assert!((chance - 2.0 / 3_432.0).abs() < 1e-12, "{chance}");
    }

    #[test]
    fn many_rounds_are_judged_too() {
        let one: Vec<f64> = (0..200)
            .map(|number| f64::from(number % 20) + 100.0)
            .collect();
        let other: Vec<f64> = one.iter().map(|value| value + 8.0).collect();
        assert!(is_beyond(&one, &other));
        assert!(!is_beyond(&one, &one));
        assert!(!is_beyond(&[5.0; 40], &[5.0; 40]));
    }
}
