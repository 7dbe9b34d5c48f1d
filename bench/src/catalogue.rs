//! Every benchmark, in the order in which they run.

use crate::session::Session;
use crate::{datapath, flows};

/// A benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Benchmark {
    /// As the command line names it.
    pub name: &'static str,
    /// What it measures, in a line.
    pub about: &'static str,
    /// Whether it is part of `--quick`.
    pub is_quick: bool,
    /// Measures, interleaved, and gives the session what it found.
    pub run: fn(&mut Session),
}

/// All of them.
pub const ALL: &[Benchmark] = &[
    Benchmark {
        name: "datapath",
        about: "what a frame costs on every way, in all directions",
        is_quick: true,
        run: datapath::run,
    },
    Benchmark {
        name: "flows",
        about: "new flows per second",
        is_quick: true,
        run: flows::run,
    },
];
