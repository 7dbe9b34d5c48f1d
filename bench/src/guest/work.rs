//! Processor time that is spent on a guest's traffic: of this process, which is the guest, its VMM and the world; of
//! those that the way needs; and of the kernel's threads that go on with packets where too many came at once. What the
//! kernel does with a packet is counted where it does it, so all of the host's forwarding is in one of these.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Whose time is counted.
#[derive(Clone, Debug)]
pub struct Workers {
    processes: Vec<u32>,
}

impl Workers {
    /// This process, these others and the kernel's.
    #[must_use]
    pub fn with(others: &[u32]) -> Self {
        let mut processes = softirq_threads();
        processes.extend(others);
        Self { processes }
    }

    /// What they have spent so far.
    ///
    /// # Panics
    /// Where a process is gone.
    #[must_use]
    pub fn spent(&self) -> Duration {
        let own = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID);
        let own: Duration = own.expect("Linux has this clock").into();
        let others = self.processes.iter().map(|process| spent_by(*process));
        own + others.sum::<Duration>()
    }
}

/// What all threads of a process have spent.
fn spent_by(process: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    let threads = threads.unwrap_or_else(|error| panic!("process {process}: {error}"));
    let spent = |thread: fs::DirEntry| -> Option<u64> {
        // A thread may have ended meanwhile.
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    let nanoseconds: u64 = threads.flatten().filter_map(spent).sum();
    Duration::from_nanos(nanoseconds)
}

/// Those that the kernel has for packets, one on each processor.
fn softirq_threads() -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("proc is mounted");
    let is_one = |path: &Path| {
        fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"))
    };
    let number = |process: fs::DirEntry| -> Option<u32> {
        let number = process.file_name().to_str()?.parse().ok()?;
        is_one(&process.path()).then_some(number)
    };
    processes.flatten().filter_map(number).collect()
}
