//! A run of benchmarks: how much of it is wanted, what it found so far, and how far it is.

use std::fmt::Write;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use crate::catalogue::Benchmark;
use crate::report::machine::{Machine, load};
use crate::report::terminal;
use crate::report::{Better, FORMAT, Goal, Ran, Report, Table};

/// A run.
#[derive(Debug)]
pub struct Session {
    quick: bool,
    rounds: Option<u32>,
    report: Report,
    bars: MultiProgress,
    whole: ProgressBar,
    is_over: Arc<AtomicBool>,
}

/// The steps of a benchmark. It is gone from the terminal when the benchmark ends, also by a panic.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    is_over: Arc<AtomicBool>,
}

impl Bar {
    /// Goes on by so many steps. Where a person asked for the end, the benchmark ends here, and what it holds is cleaned up.
    pub fn inc(&self, steps: u64) {
        self.bar.inc(steps);
        if self.is_over.load(Ordering::Relaxed) {
            resume_unwind(Box::new(INTERRUPTED));
        }
    }

    /// Says which steps they are.
    pub fn set_message(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }

    /// Removes it.
    pub fn finish_and_clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish_and_clear();
    }
}

/// What is told of the benchmark that ran when a person asked for the end.
pub const INTERRUPTED: &str = "interrupted";

impl Session {
    /// One that begins now; `rounds` where the command line names a number. It ends at the next step once `is_over` is set.
    #[must_use]
    pub fn begin(quick: bool, rounds: Option<u32>, is_over: Arc<AtomicBool>) -> Self {
        let bars = MultiProgress::new();
        Self {
            quick,
            rounds,
            whole: bars.add(ProgressBar::no_length()),
            bars,
            is_over,
            report: Report {
                format: FORMAT,
                quick,
                machine: Machine::here(),
                benchmarks: Vec::new(),
                tables: Vec::new(),
                goals: Vec::new(),
                failures: Vec::new(),
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
    ///
    /// # Panics
    /// Never: the template is one.
    #[must_use]
    pub fn bar(&self, what: &str, steps: u32) -> Bar {
        let style = ProgressStyle::with_template("  {msg:48!} [{bar:24}] {pos}/{len}");
        let style = style.expect("the template is one");
        let bar = ProgressBar::new(steps.into()).with_style(style.progress_chars("=> "));
        // Added before it is drawn: otherwise it would be drawn beside the others.
        let bar = self.bars.insert_before(&self.whole, bar);
        bar.set_message(what.to_owned());
        Bar {
            bar,
            is_over: Arc::clone(&self.is_over),
        }
    }

    /// Takes a comparison, and prints it.
    pub fn add(&mut self, table: Table) {
        self.print(&terminal::table(&table));
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
        self.print(&terminal::goal(&goal));
        self.report.goals.push(goal);
    }

    /// Shows that a benchmark begins. `left` is what it and those after it are expected to take, and `done` what those
    /// before it were.
    ///
    /// # Panics
    /// Never: the template is one.
    pub fn start(&self, benchmark: &Benchmark, (done, left): (Duration, Duration)) {
        let total = done + left;
        let (began, steps) = (self.whole.elapsed(), total.as_secs());
        let style = ProgressStyle::with_template("  {msg:48!} [{bar:24}] {elapsed}, {left}");
        let style = style.expect("the template is one").with_key(
            "left",
            move |state: &ProgressState, text: &mut dyn Write| {
                let left = left.saturating_sub(state.elapsed().saturating_sub(began));
                let minutes = left.as_secs().div_ceil(60).max(1);
                // What cannot be written to a bar is not seen either.
                write!(text, "about {minutes} min left").unwrap_or_default();
            },
        );
        // The style first: each of these draws.
        self.whole.set_style(style.progress_chars("=> "));
        self.whole.set_message(benchmark.name);
        self.whole.set_length(steps.max(1));
        self.whole.set_position(done.as_secs());
        if !self.bars.is_hidden() {
            self.whole.enable_steady_tick(Duration::from_secs(1));
        }
        self.print(&terminal::heading(benchmark.name, benchmark.about));
    }

    /// Notes that a benchmark is over, and what stopped it where it did not come to its end.
    pub fn finish(&mut self, benchmark: &Benchmark, took: Duration, failure: Option<&str>) {
        self.report.benchmarks.push(Ran {
            name: benchmark.name.to_owned(),
            about: benchmark.about.to_owned(),
            seconds: took.as_secs_f64(),
        });
        if let Some(failure) = failure {
            let failure = format!("{}: {failure}", benchmark.name);
            self.print(&format!("FAILED: {failure}"));
            self.report.failures.push(failure);
        }
        self.report.machine.load_after = load();
    }

    /// What was found so far.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// Ends it.
    #[must_use]
    pub fn end(self) -> Report {
        self.whole.finish_and_clear();
        self.report
    }

    /// Prints lines above the bars.
    fn print(&self, text: &str) {
        self.bars.suspend(|| println!("{text}"));
    }
}
