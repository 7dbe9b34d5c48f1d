//! Measurements in small slices, in turn: what disturbs the machine for a moment disturbs a slice of each way, not one
//! way of a whole round.

use crate::figures::Figures;
use crate::path::Cost;

/// Slices of a measurement.
pub const SLICES: u32 = 10;
/// What a reader of the table has to know.
pub const NOTE: &str = "a round is the median of ten slices: the ways take turns slice by slice";

/// Measures a slice of every way, then the next one of each; what a way cost is the median of its slices.
pub fn in_turn<W>(ways: &mut [W], mut measure: impl FnMut(&mut W) -> Cost) -> Vec<Cost> {
    let mut slices = vec![Slices::default(); ways.len()];
    for _ in 0..SLICES {
        for (way, slices) in ways.iter_mut().zip(&mut slices) {
            slices.add(measure(way));
        }
    }
    slices.iter().map(Slices::median).collect()
}

/// Those of one way.
#[derive(Clone, Debug, Default)]
struct Slices {
    wall: Figures,
    processor: Figures,
}

impl Slices {
    fn add(&mut self, cost: Cost) {
        self.wall.add(cost.wall);
        self.processor.add(cost.processor);
    }

    fn median(&self) -> Cost {
        Cost {
            wall: self.wall.median(),
            processor: self.processor.median(),
        }
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
