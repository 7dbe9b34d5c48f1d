//! Waiting for a condition until a deadline: the only clock of the tests.

use std::time::{Duration, Instant};

/// Time that a condition gets which normally holds at once.
pub const SOON: Duration = Duration::from_secs(10);

/// Time between two looks at a condition that cannot be waited for by poll(2).
const STEP: Duration = Duration::from_millis(5);

/// A point in time.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// The point `limit` from now.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self(now() + limit)
    }

    /// Time left; `None` when it has passed.
    #[must_use]
    pub fn remaining(self) -> Option<Duration> {
        self.0
            .checked_duration_since(now())
            .filter(|left| !left.is_zero())
    }
}

/// The monotonic clock.
#[must_use]
#[allow(
    clippy::disallowed_methods,
    reason = "tests and benchmarks have no tick that hands them the time"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Looks until `condition` gives a value, and returns it.
///
/// # Panics
/// When it gives none within `limit`; `what` says what was awaited.
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Deadline::after(limit);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            deadline.remaining().is_some(),
            "{what}: not within {limit:?}"
        );
        std::thread::sleep(STEP);
    }
}

/// Looks until `condition` holds.
///
/// # Panics
/// When it does not within `limit`.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, limit, || condition().then_some(()));
}
