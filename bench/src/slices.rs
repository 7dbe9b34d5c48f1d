//! Measurements in small slices, in turn: what disturbs the machine for a moment disturbs a slice of each way, not one
//! way of a whole round.

use crate::figures::Figures;
use crate::path::Cost;

/// Slices of a measurement.
pub const SLICES: u32 = 10;
/// What a reader of the table has to know.
pub const NOTE: &str = "a round is the median of ten slices: the ways take turns slice by slice";

/// Measures a slice of every way, then the next one of each; what a way cost is the median of its slices.
pub fn in_turn<W>(ways: &mut [W], measure: impl FnMut(&mut W) -> Cost) -> Vec<Cost> {
    let found = each_in_turn(SLICES, ways, measure);
    found.iter().map(|slices| median(slices)).collect()
}

/// Measures every way, then every way again, so many times; all that was found of each.
pub fn each_in_turn<W, S>(
    slices: u32,
    ways: &mut [W],
    mut measure: impl FnMut(&mut W) -> S,
) -> Vec<Vec<S>> {
    let mut found: Vec<Vec<S>> = ways.iter().map(|_| Vec::new()).collect();
    for _ in 0..slices {
        for (way, found) in ways.iter_mut().zip(&mut found) {
            found.push(measure(way));
        }
    }
    found
}

fn median(slices: &[Cost]) -> Cost {
    let of = |part: fn(&Cost) -> f64| slices.iter().map(part).collect::<Figures>().median();
    Cost {
        wall: of(|cost| cost.wall),
        processor: of(|cost| cost.processor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_take_turns_and_a_disturbed_slice_changes_nothing() {
        let mut order = Vec::new();
        let mut calls = 0;
        let costs = in_turn(&mut ["a", "b"], |way| {
            order.push(*way);
            calls += 1;
            let disturbed = if calls == 3 { 1_000.0 } else { 0.0 };
            let ns = if *way == "a" { 5.0 } else { 7.0 } + disturbed;
            Cost {
                wall: 2.0 * ns,
                processor: ns,
            }
        });
        assert_eq!(order[..4], ["a", "b", "a", "b"]);
        assert_eq!(order.len(), 2 * SLICES as usize);
        let costs: Vec<(f64, f64)> = costs
            .iter()
            .map(|cost| (cost.processor, cost.wall))
            .collect();
        assert_eq!(costs, [(5.0, 10.0), (7.0, 14.0)]);
    }
}
