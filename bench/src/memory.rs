//! What a process keeps in memory.

use std::fs;

/// Sizes, MB of 1,000,000 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Resident now.
    pub resident_mb: f64,
    /// Resident at most until now.
    pub peak_mb: f64,
}

impl Memory {
    /// Forgets the peak of a process: what it keeps now is the most until now.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn forget_peak(pid: u32) {
        // proc(5), clear_refs.
        fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the process runs");
    }

    /// Of a process.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
        let megabytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line
                .and_then(|line| line.split_whitespace().next())
                .and_then(|number| number.parse().ok());
            let kibibytes: f64 = kibibytes.expect("the kernel shows it");
            kibibytes * 1_024.0 / 1e6
        };
        Self {
            resident_mb: megabytes("VmRSS:"),
            peak_mb: megabytes("VmHWM:"),
        }
    }
}
