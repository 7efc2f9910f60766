//! A moment after which waiting ends.

use std::time::{Duration, Instant};

/// A moment after which waiting ends. No timeout is too long for it.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    start: Instant,
    timeout: Duration,
}

impl Deadline {
    /// So much time from now on.
    pub fn after(timeout: Duration) -> Self {
        Self {
            start: Instant::now(),
            timeout,
        }
    }

    /// Is the time up?
    pub fn has_passed(&self) -> bool {
        self.start.elapsed() >= self.timeout
    }

    /// How much time is left.
    pub fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.start.elapsed())
    }

    /// The same with more time.
    pub(crate) fn extended(&self, by: Duration) -> Self {
        Self {
            start: self.start,
            timeout: self.timeout.saturating_add(by),
        }
    }

    /// How long it was from its start.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}
