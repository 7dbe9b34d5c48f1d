//! What a run of the benchmarks found: every round of every way, for the terminal, the page and the next run.

pub mod compare;
pub mod files;
pub mod machine;
pub mod noise;
pub mod number;
pub mod page;
pub mod standing;
pub mod terminal;

use serde::{Deserialize, Serialize};

use crate::figures::Figures;
use crate::report::machine::Machine;
use crate::report::number::tidy;

/// Version of the JSON: a report of another one is not compared.
pub const FORMAT: u32 = 1;

/// What a run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// `--quick`: fewer and shorter rounds.
    pub quick: bool,
    /// Where and when.
    pub machine: Machine,
    /// Those that ran.
    pub benchmarks: Vec<Ran>,
    /// In the order in which they were measured.
    pub tables: Vec<Table>,
    /// What was to be reached.
    pub goals: Vec<Goal>,
    /// Which of the benchmarks stopped, and at what.
    pub failures: Vec<String>,
}

/// A benchmark that ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ran {
    /// As the command line names it; ids of its tables begin with it.
    pub name: String,
    /// What it measures.
    pub about: String,
    /// How long it took.
    pub seconds: f64,
}

/// One comparison: ways beside each other, measured in turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What a later run finds it again by: `datapath/64-bytes/1-flow`.
    pub id: String,
    /// What is compared.
    pub title: String,
    /// Of every value.
    pub unit: String,
    /// Which values are good.
    pub better: Better,
    /// What a way is measured at, where at several sizes: `instances`.
    pub axis: Option<String>,
    /// Of every way, at every size.
    pub cells: Vec<Cell>,
    /// What a reader has to know: what was checked, what a peer does not do.
    pub notes: Vec<String>,
}

/// Which values are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Times, memory.
    Lower,
    /// Rates.
    Higher,
}

/// One way at one size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The way: `netagent`, `nft masquerade`.
    pub way: String,
    /// The size, where the table has an axis.
    pub at: Option<f64>,
    /// A value for each round, in their order; none where this way cannot do it, and a note says why.
    pub rounds: Vec<f64>,
}

/// What was to be reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// What it is about; the same in every run.
    pub what: String,
    /// What was reached.
    pub value: f64,
    /// What was to be reached.
    pub target: f64,
    /// On which side of it.
    pub better: Better,
}

impl Table {
    /// A table without cells.
    #[must_use]
    pub fn new(id: &str, title: &str, (unit, better): (&str, Better)) -> Self {
        Self {
            id: id.to_owned(),
            title: title.to_owned(),
            unit: unit.to_owned(),
            better,
            axis: None,
            cells: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The same, measured at several sizes.
    #[must_use]
    pub fn over(mut self, axis: &str) -> Self {
        self.axis = Some(axis.to_owned());
        self
    }

    /// Takes what a way was measured to be.
    pub fn add(&mut self, way: &str, figures: &Figures) {
        self.add_at(way, None, figures);
    }

    /// The same at a size.
    pub fn add_at(&mut self, way: &str, at: Option<f64>, figures: &Figures) {
        self.cells.push(Cell {
            way: way.to_owned(),
            at,
            rounds: figures.values().to_vec(),
        });
    }

    /// Takes something that a reader has to know.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The ways, in the order in which they were added.
    #[must_use]
    pub fn ways(&self) -> Vec<&str> {
        let mut ways: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if !ways.contains(&cell.way.as_str()) {
                ways.push(&cell.way);
            }
        }
        ways
    }

    /// The sizes, from the smallest on.
    #[must_use]
    pub fn sizes(&self) -> Vec<f64> {
        let mut sizes: Vec<f64> = self.cells.iter().filter_map(|cell| cell.at).collect();
        sizes.sort_by(f64::total_cmp);
        sizes.dedup();
        sizes
    }

    /// What a way was measured to be.
    #[must_use]
    pub fn cell(&self, way: &str, at: Option<f64>) -> Option<&Cell> {
        let mut cells = self.cells.iter();
        cells.find(|cell| cell.way == way && cell.at == at)
    }
}

impl Cell {
    /// The rounds as figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.rounds.iter().copied().collect()
    }
}

impl Goal {
    /// Whether it was.
    #[must_use]
    pub fn is_met(&self) -> bool {
        match self.better {
            Better::Lower => self.value <= self.target,
            Better::Higher => self.value >= self.target,
        }
    }

    /// What was to be reached, as people write it.
    #[must_use]
    pub fn wanted(&self) -> String {
        let target = tidy(self.target);
        match self.better {
            Better::Lower => format!("<= {target}"),
            Better::Higher => format!(">= {target}"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report of tables.
    pub(crate) fn report(tables: Vec<Table>) -> Report {
        Report {
            format: FORMAT,
            quick: false,
            machine: Machine::default(),
            benchmarks: Vec::new(),
            tables,
            goals: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// A table of ways and their rounds.
    pub(crate) fn table(ways: &[(&str, &[f64])]) -> Table {
        let mut table = Table::new("some/id", "some frames", ("ns", Better::Lower));
        for (way, rounds) in ways {
            table.add(way, &rounds.iter().copied().collect());
        }
        table
    }
}
