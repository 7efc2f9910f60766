//! A moment after which waiting ends.

use std::time::{Duration, Instant};

/// A moment after which waiting ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    start: Instant,
    timeout: Duration,
}

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Self {
        Self {
            start: Instant::now(),
            timeout,
        }
    }

    pub(crate) fn has_passed(&self) -> bool {
        self.start.elapsed() >= self.timeout
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }
}
