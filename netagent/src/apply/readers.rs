//! Programs that may still read what was taken out of force (design, decision 16).
#![allow(
    unsafe_code,
    reason = "membarrier is a system call that no crate in use offers"
)]

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use tokio::time::Instant;

/// No run of a program takes so long, whatever interrupts its processor.
const RUN_MAX: Duration = Duration::from_secs(1);
/// Where the kernel does not wait for us: a run takes microseconds, and a slice of the scheduler passes.
const PAUSE: Duration = Duration::from_millis(20);

/// `MEMBARRIER_CMD_GLOBAL`: with several processors, the kernel waits for an RCU grace period. With one, none but the
/// caller runs, and a program does not give its processor away.
const GLOBAL: libc::c_int = 1;

/// When slots were last flipped: until a grace period has passed, programs may read the copy before.
#[derive(Debug, Default)]
pub struct Readers {
    flips: BTreeMap<u32, Instant>,
}

impl Readers {
    /// A slot was flipped.
    pub fn note_flip(&mut self, slot: u32, now: Instant) {
        self.flips.insert(slot, now);
    }

    /// Whether a program may still read the copy of a slot that was in force before.
    #[must_use]
    pub fn may_read(&self, slot: u32, now: Instant) -> bool {
        let flip = self.flips.get(&slot);
        flip.is_some_and(|flip| now.saturating_duration_since(*flip) < RUN_MAX)
    }

    /// Whether a program may still read any copy that was in force before.
    #[must_use]
    pub fn may_read_any(&self, now: Instant) -> bool {
        self.flips.keys().any(|slot| self.may_read(*slot, now))
    }

    /// Waits until the programs that run now are done.
    pub fn wait(&mut self) {
        if let Err(errno) = wait_for_programs() {
            // Processors without a tick (nohz_full) are not waited for.
            tracing::debug!(%errno, "the kernel does not wait for programs, a pause does");
            thread::sleep(PAUSE);
        }
        self.flips.clear();
    }
}

fn wait_for_programs() -> Result<(), Errno> {
    // SAFETY: the call takes three numbers and touches no memory of ours.
    let code = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    Errno::result(code).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_before_is_read_until_a_grace_period_or_a_run_has_passed() {
        let mut readers = Readers::default();
        let start = Instant::now();
        assert!(!readers.may_read(1, start) && !readers.may_read_any(start));
        readers.note_flip(1, start);
        assert!(readers.may_read(1, start) && readers.may_read_any(start));
        assert!(!readers.may_read(2, start), "another slot");
        assert!(!readers.may_read(1, start + RUN_MAX) && !readers.may_read_any(start + RUN_MAX));
        readers.wait();
        assert!(!readers.may_read(1, start));
        readers.note_flip(1, start);
        assert!(readers.may_read(1, start), "flipped again");
    }

    #[test]
    fn the_kernel_waits_for_programs() {
        assert_eq!(wait_for_programs(), Ok(()));
    }
}
