//! A moment after which waiting ends.

use std::time::{Duration, Instant};

/// A moment after which waiting ends. Any timeout is allowed: nothing overflows.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    start: Instant,
    timeout: Duration,
}

impl Deadline {
    /// The moment when `timeout` from now has passed.
    pub fn after(timeout: Duration) -> Self {
        Self {
            start: Instant::now(),
            timeout,
        }
    }

    /// Whether the time is up.
    pub fn has_passed(&self) -> bool {
        self.start.elapsed() >= self.timeout
    }

    /// The time that is left.
    pub fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.start.elapsed())
    }

    /// The deadline, moved later by `by`.
    pub(crate) fn extended(&self, by: Duration) -> Self {
        Self {
            start: self.start,
            timeout: self.timeout.saturating_add(by),
        }
    }

    /// The whole time from the start to the deadline.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}
