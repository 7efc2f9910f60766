//! How long a command may work on a process: a bound on everything that is done with a [`Process`].
//!
//! The bound belongs to the handle and not to each function, so that no wait can be forgotten: the
//! target decides how long most operations on it take.

use std::sync::Mutex;
use std::time::Duration;

use crate::process::deadline::Deadline;
use crate::process::handle::Process;
use crate::process::limits::{GRACE, SHORTEST_WAIT};

/// The time limit of a command, if it has one.
#[derive(Debug, Default)]
pub(crate) struct TimeLimit {
    deadline: Mutex<Option<Deadline>>,
}

impl TimeLimit {
    fn deadline(&self) -> Option<Deadline> {
        // A deadline is replaced as a whole, so no panic leaves it half written.
        let guard = self.deadline.lock();
        *guard.unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The time that is left, including the time for undoing what was begun.
    fn left_for_all(&self) -> Option<Duration> {
        Some(self.deadline()?.extended(GRACE).left())
    }
}

impl Process {
    /// Limits the time of everything that is done with this process and with clones of this handle:
    /// it ends when `timeout` from now has passed. What has to be undone then ends within a second
    /// more. Replaces an earlier limit.
    pub fn limit_time(&self, timeout: Duration) {
        let limit = &self.shared.time_limit.deadline;
        let guard = limit.lock();
        *guard.unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Deadline::after(timeout));
    }

    /// The time that is left; `None` if there is no limit.
    pub fn time_left(&self) -> Option<Duration> {
        Some(self.shared.time_limit.deadline()?.left())
    }

    /// A deadline after the wanted time, or when the time of the command is up, if that is earlier.
    /// When the time is up already, the wait is short, so that several waits fit into the time for
    /// undoing.
    pub(crate) fn patience(&self, wanted: Duration) -> Deadline {
        let left = self.time_left().map_or(wanted, |left| {
            let grace = self.shared.time_limit.left_for_all().unwrap_or(left);
            left.max(SHORTEST_WAIT).min(grace)
        });
        Deadline::after(wanted.min(left))
    }

    /// The limit, if the time is up, including the time for undoing: then nothing may be done any
    /// more.
    pub(crate) fn out_of_time(&self) -> Option<Duration> {
        let left = self.shared.time_limit.left_for_all()?;
        let timeout = self.shared.time_limit.deadline()?.timeout();
        left.is_zero().then_some(timeout)
    }
}
