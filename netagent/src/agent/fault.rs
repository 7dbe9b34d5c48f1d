//! Boundaries at which a test kills the agent: between any two steps, and around every commit.

/// Names the boundary, counted from 1, at which this process kills itself. Read by debug builds alone.
#[cfg(debug_assertions)]
const VARIABLE: &str = "NETAGENT_KILL_AT";

/// One boundary. In a debug build that was told so, the process ends here as by kill -9.
#[cfg(debug_assertions)]
pub(crate) fn boundary() {
    use std::sync::atomic::{AtomicU64, Ordering};

    static PASSED: AtomicU64 = AtomicU64::new(0);
    static KILL_AT: std::sync::OnceLock<Option<u64>> = std::sync::OnceLock::new();
    let kill_at = KILL_AT.get_or_init(|| std::env::var(VARIABLE).ok()?.parse().ok());
    let passed = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
    if *kill_at == Some(passed) {
        let killed = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        tracing::error!(?killed, "still alive at a boundary");
    }
}

/// One boundary: nothing in a release build.
#[cfg(not(debug_assertions))]
pub(crate) const fn boundary() {}
