//! All ways side by side: measured in turn, round after round, and compared.

use indicatif::ProgressBar;

use crate::figures::Figures;
use crate::path::Cost;
use crate::report::{Better, Table};
use crate::variant::{Kind, Variant};

/// One way with its flows and what they cost.
struct Way<F> {
    variant: Variant,
    flows: F,
    wall: Figures,
    processor: Figures,
}

impl<F> Way<F> {
    const fn figures(&self, time: Time) -> &Figures {
        match time {
            Time::Wall => &self.wall,
            Time::Processor => &self.processor,
        }
    }
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

    /// Of the table whose wall clock's is `id`.
    #[must_use]
    pub fn id(self, id: &str) -> String {
        match self {
            Self::Wall => id.to_owned(),
            Self::Processor => format!("{id}/processor"),
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

    /// Measures every way once in every round, of which there are as many as the bar has steps.
    pub fn measure(&mut self, bar: &ProgressBar, measure: impl Fn(&Variant, &mut F) -> Cost) {
        for _ in 0..bar.length().unwrap_or(1) {
            for way in &mut self.0 {
                let Cost { wall, processor } = measure(&way.variant, &mut way.flows);
                way.wall.add(wall);
                way.processor.add(processor);
            }
            bar.inc(1);
        }
    }

    /// What every way cost, by either time: two tables, the second of which has an id of its own.
    #[must_use]
    pub fn tables(&self, id: &str, title: &str) -> [Table; 2] {
        Time::ALL.map(|time| {
            let (id, title) = (time.id(id), format!("{title}, {}", time.name()));
            let mut table = Table::new(&id, &title, ("ns", Better::Lower));
            for way in &self.0 {
                table.add(way.variant.kind.name(), way.figures(time));
            }
            table
        })
    }

    /// Median of a way.
    ///
    /// # Panics
    /// Never: all ways are measured.
    #[must_use]
    pub fn median(&self, kind: Kind, time: Time) -> f64 {
        let way = self.0.iter().find(|way| way.variant.kind == kind);
        way.expect("all kinds were measured").figures(time).median()
    }
}
