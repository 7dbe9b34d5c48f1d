//! Waiting, until it has lasted too long or a signal came.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Time between two looks.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// How long one thing may take: the boot of three VMs on a slow machine is the longest.
const LIMIT: Duration = Duration::from_secs(45);

/// Whether to go on waiting.
pub(crate) struct Patience {
    interrupted: Arc<AtomicBool>,
}

impl Patience {
    /// From now on no signal ends the process by itself.
    pub(crate) fn new() -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register(signal, Arc::clone(&interrupted))?;
        }
        Ok(Self { interrupted })
    }

    /// Whether a signal came.
    pub(crate) fn is_over(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Looks until there is a value.
    pub(crate) fn wait_for<T>(
        &self,
        what: &str,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let start = SystemTime::now();
        loop {
            if self.is_over() {
                bail!("interrupted");
            }
            if let Some(found) = look()? {
                return Ok(found);
            }
            if start.elapsed().unwrap_or_default() > LIMIT {
                bail!("{what}: not within {} s", LIMIT.as_secs());
            }
            sleep(TICK);
        }
    }

    /// Looks until it holds.
    pub(crate) fn wait_until(
        &self,
        what: &str,
        mut look: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        self.wait_for(what, || Ok(look()?.then_some(())))
    }
}
