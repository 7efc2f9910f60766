//! Letting traced threads go: resuming, detaching, and the way back from every error.

use std::time::Duration;

use rustix::io::Errno;

use crate::deadline::Deadline;
use crate::stop_error::StopError;
use crate::sys::alarm::Alarm;
use crate::sys::ptrace::{self, Go};
use crate::tracees::{Condition, Tracee, Tracees};
use crate::wait::{Waited, wait};

/// How long the backstop in `drop` waits for threads that it must first stop.
const LAST_CHANCE: Duration = Duration::from_millis(500);
impl Tracees {
    /// Lets go of processes that were attached by accident. They stop at birth.
    pub(crate) fn release_strangers(&mut self) {
        for tid in std::mem::take(&mut self.strangers) {
            // Blocks only until the newborn has reached its first stop, or has ended.
            while matches!(wait(tid, true), Ok(Waited::Nothing)) {}
            if let Err(error) = ptrace::detach(tid) {
                tracing::debug!(tid, %error, "a new process is gone before it could be released");
            }
        }
    }

    /// The stopped threads, those first that are to go on first.
    fn stopped_in_order(&self) -> Vec<(i32, Tracee)> {
        let stopped = self
            .threads
            .iter()
            .filter(|(_, tracee)| tracee.condition != Condition::Running);
        let mut order: Vec<_> = stopped.map(|(tid, tracee)| (*tid, *tracee)).collect();
        order.sort_by_key(|(_, tracee)| !tracee.was_running);
        order
    }

    /// Lets all threads go on, still traced.
    pub(crate) fn resume(&mut self) -> Result<(), StopError> {
        self.wanted = false;
        for (tid, tracee) in self.stopped_in_order() {
            let result = match tracee.condition {
                Condition::Stopped { group: true } => ptrace::listen(tid),
                _ => ptrace::go(tid, Go::Continue, 0),
            };
            self.accept(result)?;
            if let Some(tracee) = self.threads.get_mut(&tid) {
                tracee.condition = Condition::Running;
            }
        }
        Ok(())
    }

    /// Lets all threads go on, no longer traced. Every thread is tried; the first failure is told.
    pub(crate) fn detach_stopped(&mut self) -> Result<(), StopError> {
        let mut outcome = Ok(());
        for (tid, _) in self.stopped_in_order() {
            match ptrace::detach(tid) {
                Ok(()) => {
                    self.threads.remove(&tid);
                }
                // Killed while stopped: to be reaped below.
                Err(Errno::SRCH) => {
                    if let Some(tracee) = self.threads.get_mut(&tid) {
                        tracee.condition = Condition::Running;
                    }
                }
                Err(error) => {
                    outcome = outcome.and(Err(self.system("detach from a thread", error)))
                }
            }
        }
        outcome
    }

    /// Lets go of everything, whatever state it is in: the way back from every error.
    pub(crate) fn release(&mut self) -> Result<(), StopError> {
        let detached = self.detach_stopped();
        if self.threads.is_empty() && self.strangers.is_empty() {
            return detached;
        }
        // What is left runs, or has been killed. A thread can be let go only while it is stopped.
        let _alarm = Alarm::start().map_err(|error| self.system("start a timer", error))?;
        self.wanted = true;
        let deadline = Deadline::after(LAST_CHANCE);
        // The first thread of a killed process can be reaped only after all others.
        let tids: Vec<i32> = self.threads.keys().rev().copied().collect();
        for tid in &tids {
            self.accept(ptrace::interrupt(*tid))?;
        }
        let mut outcome = detached;
        for tid in tids {
            // Threads that were awaited before are let go at once, not when the last is there.
            outcome = outcome
                .and(self.await_stop(tid, &deadline))
                .and(self.detach_stopped());
        }
        self.release_strangers();
        outcome
    }
}

impl Drop for Tracees {
    fn drop(&mut self) {
        if self.threads.is_empty() && self.strangers.is_empty() {
            return;
        }
        if let Err(error) = self.release() {
            // The kernel lets go of what is left when this thread ends.
            tracing::warn!(pid = self.pid(), %error, "threads remain traced");
        }
    }
}
