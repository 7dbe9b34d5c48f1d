//! Where and when a run was made.

use std::fs;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Load above which the figures of a run are to be taken as ratios alone.
pub const IDLE: f64 = 0.3;

/// Where and when a run was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// `uname -a`, as the kernel says it.
    pub kernel: String,
    /// Model of the processor.
    pub processor: String,
    /// Processors that are online.
    pub processors: usize,
    /// Seconds since 1970 at the start.
    pub started: u64,
    /// Load of the last minute before the first round.
    pub load_before: f64,
    /// The same after the last one, which is the benchmarks' own.
    pub load_after: f64,
}

impl Machine {
    /// This one, now.
    #[must_use]
    pub fn here() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let processors = read("/proc/cpuinfo");
        let model = processors
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            kernel: read("/proc/version").trim().to_owned(),
            processor: model.map_or_else(String::new, |(_, name)| name.to_owned()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            started: since.map_or(0, |since| since.as_secs()),
            load_before: load(),
            load_after: 0.0,
        }
    }

    /// Whether nothing else ran when the run began.
    #[must_use]
    pub fn was_idle(&self) -> bool {
        self.load_before <= IDLE
    }
}

/// Load of the last minute.
#[must_use]
pub fn load() -> f64 {
    let text = read("/proc/loadavg");
    let first = text.split(' ').next().and_then(|load| load.parse().ok());
    first.unwrap_or_default()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
