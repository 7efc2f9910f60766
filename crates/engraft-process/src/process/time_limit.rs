//! How long a command may work on a process: a bound on everything that is done with a [`Process`].
//!
//! It belongs to the handle and not to each function, so that no wait can be forgotten: a target decides how long
//! most of what is done with it takes.

use std::sync::Mutex;
use std::time::Duration;

use crate::process::deadline::Deadline;
use crate::process::handle::Process;
use crate::process::limits::{GRACE, SHORTEST_WAIT};

/// The time of a command, if it has a limit.
#[derive(Debug, Default)]
pub(crate) struct TimeLimit {
    deadline: Mutex<Option<Deadline>>,
}

impl TimeLimit {
    fn deadline(&self) -> Option<Deadline> {
        // A deadline is replaced as a whole, so a thread that has panicked leaves none half written.
        let guard = self.deadline.lock();
        *guard.unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How much time is left, that for undoing what was begun included.
    fn left_for_all(&self) -> Option<Duration> {
        Some(self.deadline()?.extended(GRACE).left())
    }
}

impl Process {
    /// From now on everything that is done with this process, and with clones of this handle, ends when `timeout` has
    /// passed; what has to be undone then, within a second more. It replaces an earlier limit.
    pub fn limit_time(&self, timeout: Duration) {
        let limit = &self.shared.time_limit.deadline;
        let guard = limit.lock();
        *guard.unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Deadline::after(timeout));
    }

    /// The time that is left, if it is limited.
    pub fn time_left(&self) -> Option<Duration> {
        Some(self.shared.time_limit.deadline()?.left())
    }

    /// A wait of this length, or as long as there is time. When the time is up a wait is short, so that several of
    /// them fit into the time for undoing.
    pub(crate) fn patience(&self, wanted: Duration) -> Deadline {
        let left = self.time_left().map_or(wanted, |left| {
            let grace = self.shared.time_limit.left_for_all().unwrap_or(left);
            left.max(SHORTEST_WAIT).min(grace)
        });
        Deadline::after(wanted.min(left))
    }

    /// Whether nothing may be done any more; how long there was.
    pub(crate) fn out_of_time(&self) -> Option<Duration> {
        let left = self.shared.time_limit.left_for_all()?;
        let timeout = self.shared.time_limit.deadline()?.timeout();
        left.is_zero().then_some(timeout)
    }
}
