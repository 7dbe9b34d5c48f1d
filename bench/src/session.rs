//! A run of benchmarks: how much of it is wanted, what it found so far, and how far it is.

use indicatif::{ProgressBar, ProgressStyle};

use crate::report::machine::{Machine, load};
use crate::report::{Better, FORMAT, Goal, Report, Table};

/// A run.
#[derive(Debug)]
pub struct Session {
    quick: bool,
    rounds: Option<u32>,
    report: Report,
}

impl Session {
    /// One that begins now; `rounds` where the command line names a number.
    #[must_use]
    pub fn begin(quick: bool, rounds: Option<u32>) -> Self {
        Self {
            quick,
            rounds,
            report: Report {
                format: FORMAT,
                quick,
                machine: Machine::here(),
                tables: Vec::new(),
                goals: Vec::new(),
            },
        }
    }

    /// Whether somebody wants a first impression within two minutes.
    #[must_use]
    pub const fn is_quick(&self) -> bool {
        self.quick
    }

    /// Rounds of a benchmark that makes `full` of them where nothing else is wanted.
    #[must_use]
    pub fn rounds(&self, full: u32) -> u32 {
        self.rounds
            .unwrap_or(if self.quick { full.min(3) } else { full })
    }

    /// How many frames, flows, requests: `full`, and a fifth of it where it is to be quick.
    #[must_use]
    pub const fn count(&self, full: u32) -> u32 {
        if self.quick { full / 5 } else { full }
    }

    /// A bar that goes on at every step; it is not there where nobody looks.
    #[must_use]
    pub fn bar(&self, what: &str, steps: u32) -> ProgressBar {
        let style = ProgressStyle::with_template("{msg:32} [{bar:40}] {pos}/{len} {elapsed}")
            .expect("the template is one");
        let bar = ProgressBar::new(steps.into());
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(what.to_owned());
        bar
    }

    /// Takes a comparison, and prints it.
    pub fn add(&mut self, table: Table) {
        crate::report::terminal::print_table(&table);
        self.report.tables.push(table);
    }

    /// Takes what was to be reached, and prints it.
    pub fn goal(&mut self, what: &str, value: f64, (better, target): (Better, f64)) {
        let goal = Goal {
            what: what.to_owned(),
            value,
            target,
            better,
        };
        crate::report::terminal::print_goal(&goal);
        self.report.goals.push(goal);
    }

    /// Ends it.
    #[must_use]
    pub fn end(mut self) -> Report {
        self.report.machine.load_after = load();
        self.report
    }
}
