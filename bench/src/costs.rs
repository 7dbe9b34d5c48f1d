//! What several ways cost, round by round, and the tables of it.

use crate::figures::Figures;
use crate::path::Cost;
use crate::report::{Better, Table};

/// What the way of a name cost.
#[derive(Clone, Debug, Default)]
struct Way {
    name: String,
    /// Where it was measured at several sizes.
    at: Option<f64>,
    wall: Figures,
    processor: Figures,
}

/// All ways of a comparison, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Costs(Vec<Way>);

/// What a table of rates says.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Its unit.
    pub unit: &'static str,
    /// What a frame that takes a nanosecond would reach.
    pub of_one_ns: f64,
}

impl Rate {
    /// Of frames.
    pub const FRAMES: Self = Self {
        unit: "thousand frames per second",
        of_one_ns: 1e6,
    };
    /// Of new flows.
    pub const FLOWS: Self = Self {
        unit: "thousand flows per second",
        of_one_ns: 1e6,
    };
}

impl Costs {
    /// Takes what a round found.
    pub fn add(&mut self, name: &str, cost: Cost) {
        self.add_at(name, None, cost);
    }

    /// The same at a size.
    pub fn add_at(&mut self, name: &str, at: Option<f64>, cost: Cost) {
        let known = |way: &Way| way.name == name && way.at == at;
        let place = self.0.iter().position(known).unwrap_or_else(|| {
            self.0.push(Way {
                name: name.to_owned(),
                at,
                ..Way::default()
            });
            self.0.len() - 1
        });
        self.0[place].wall.add(cost.wall);
        self.0[place].processor.add(cost.processor);
    }

    /// Drops what was found of a way, which turned out not to do all of it.
    pub fn forget(&mut self, name: &str) {
        self.0.retain(|way| way.name != name);
    }

    /// Fills a table with the processor's time of each frame, and one with rates by the clock on the wall.
    pub fn fill(&self, (time, rate): (&mut Table, &mut Table), of: Rate) {
        for way in &self.0 {
            time.add_at(&way.name, way.at, &way.processor);
            let rates: Figures = way
                .wall
                .values()
                .iter()
                .map(|ns| of.of_one_ns / ns)
                .collect();
            rate.add_at(&way.name, way.at, &rates);
        }
    }

    /// Two tables of the same name, of time and of rate, with everything in them.
    #[must_use]
    pub fn tables(&self, (id, title): (&str, &str), of: Rate, axis: Option<&str>) -> [Table; 2] {
        let rate_id = format!("{id}/rate");
        let mut time = Table::new(id, title, ("ns of the processor", Better::Lower));
        let mut rate = Table::new(&rate_id, title, (of.unit, Better::Higher));
        time.axis = axis.map(str::to_owned);
        rate.axis.clone_from(&time.axis);
        self.fill((&mut time, &mut rate), of);
        [time, rate]
    }

    /// The rounds of some ways side by side: processor's time of each frame.
    #[must_use]
    pub fn rounds<const N: usize>(&self, names: [&str; N]) -> Vec<[f64; N]> {
        let places = names.map(|name| (name, None));
        self.rounds_at(places)
    }

    /// The same of ways at sizes.
    #[must_use]
    pub fn rounds_at<const N: usize>(&self, places: [(&str, Option<f64>); N]) -> Vec<[f64; N]> {
        let of = |(name, at): (&str, Option<f64>)| {
            let found = self.0.iter().find(|way| way.name == name && way.at == at);
            found.map_or(&[][..], |way| way.processor.values())
        };
        let ways = places.map(of);
        let count = ways.map(<[f64]>::len).into_iter().min().unwrap_or(0);
        (0..count).map(|round| ways.map(|way| way[round])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(ns: f64) -> Cost {
        Cost {
            wall: 2.0 * ns,
            processor: ns,
        }
    }

    #[test]
    fn rounds_of_ways_stand_side_by_side_as_far_as_all_have_them() {
        let mut costs = Costs::default();
        for (name, ns) in [("a", 1.0), ("b", 10.0), ("a", 2.0), ("b", 20.0), ("a", 3.0)] {
            costs.add(name, cost(ns));
        }
        assert_eq!(costs.rounds(["b", "a"]), [[10.0, 1.0], [20.0, 2.0]]);
        assert!(costs.rounds(["a", "unknown"]).is_empty());
        costs.forget("a");
        assert_eq!(costs.rounds(["b"]), [[10.0], [20.0]]);
    }

    #[test]
    fn sizes_are_apart_and_rates_are_by_the_clock_on_the_wall() {
        let mut costs = Costs::default();
        costs.add_at("a", Some(1.0), cost(500.0));
        costs.add_at("a", Some(10.0), cost(250.0));
        let [time, rate] = costs.tables(("id", "title"), Rate::FRAMES, Some("size"));
        assert_eq!(time.cells[1].rounds, [250.0]);
        assert_eq!(rate.cells[0].rounds, [1e6 / 1_000.0]);
        assert_eq!(
            (rate.id.as_str(), rate.axis.as_deref()),
            ("id/rate", Some("size"))
        );
        let places = [("a", Some(10.0)), ("a", Some(1.0))];
        assert_eq!(costs.rounds_at(places), [[250.0, 500.0]]);
    }
}
