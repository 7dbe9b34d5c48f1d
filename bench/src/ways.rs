//! All ways side by side: measured in turn, round after round, and compared.

use crate::figures::Figures;
use crate::path::Cost;
use crate::variant::{Kind, Variant};

/// One way with its flows and what they cost.
struct Way<F> {
    variant: Variant,
    flows: F,
    wall: Figures,
    processor: Figures,
}

/// All of them.
pub struct Ways<F>(Vec<Way<F>>);

/// Which of the two times a comparison is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// By the clock on the wall.
    Wall,
    /// By the processor's time of the writer.
    Processor,
}

impl Time {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Wall, Self::Processor];

    /// As it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wall => "wall clock",
            Self::Processor => "processor time",
        }
    }
}

impl<F> Ways<F> {
    /// Prepares all ways with their flows.
    #[must_use]
    pub fn prepare(prepare: impl Fn(Kind) -> (Variant, F)) -> Self {
        let way = |kind| {
            let (variant, flows) = prepare(kind);
            Way {
                variant,
                flows,
                wall: Figures::default(),
                processor: Figures::default(),
            }
        };
        Self(Kind::ALL.into_iter().map(way).collect())
    }

    /// Measures every way once in every round.
    pub fn measure(&mut self, rounds: u32, measure: impl Fn(&Variant, &mut F) -> Cost) {
        for _ in 0..rounds {
            for way in &mut self.0 {
                let Cost { wall, processor } = measure(&way.variant, &mut way.flows);
                way.wall.add(wall);
                way.processor.add(processor);
            }
        }
    }

    /// Prints every way, with a rate that `rate` makes of a median.
    pub fn print(&self, rate: impl Fn(f64) -> String) {
        for way in &self.0 {
            let (name, wall, processor) = (way.variant.kind.name(), &way.wall, &way.processor);
            println!(
                "  {name:18} {wall}  {}  processor {processor}",
                rate(wall.median())
            );
        }
        for way in &self.0 {
            let (name, wall, processor) = (way.variant.kind.name(), &way.wall, &way.processor);
            println!(
                "    raw, {name}: wall {}; processor {}",
                wall.raw(),
                processor.raw()
            );
        }
    }

    /// Median of a way.
    ///
    /// # Panics
    /// Never: all ways are measured.
    #[must_use]
    pub fn median(&self, kind: Kind, time: Time) -> f64 {
        let way = self.0.iter().find(|way| way.variant.kind == kind);
        let way = way.expect("all kinds were measured");
        match time {
            Time::Wall => way.wall.median(),
            Time::Processor => way.processor.median(),
        }
    }
}
