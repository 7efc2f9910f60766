//! Letting traced threads go: resuming, detaching, and the way back from every error.

use std::time::Duration;

use rustix::io::Errno;

use crate::deadline::Deadline;
use crate::prepared::Prepared;
use crate::stop_error::StopError;
use crate::sys::ptrace::{self, Go};
use crate::tracees::{Condition, Tracees};
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

    fn is_stopped(&self, tid: i32) -> bool {
        let tracee = self.threads.get(&tid);
        tracee.is_some_and(|tracee| tracee.condition != Condition::Running)
    }

    /// Lets the stopped threads go on, each by `go`: those first that were running, and do not have to be
    /// restored before; then the one that made a call; then the sleepers.
    fn let_go(
        &mut self,
        mut go: impl FnMut(&mut Self, i32) -> Result<(), StopError>,
    ) -> Result<(), StopError> {
        let mut outcome = Ok(());
        // Nothing is looked for or sorted while these wait.
        for tid in std::mem::take(&mut self.runners) {
            if self.is_stopped(tid) && !self.is_returned(tid) {
                outcome = outcome.and(go(self, tid));
            }
        }
        self.end_hurry();
        let returned = self.returned.as_ref().map(|kept| kept.tid);
        outcome = outcome.and(self.finish_call());
        let first = returned.filter(|tid| self.is_stopped(*tid));
        let tids: Vec<i32> = self.threads.keys().copied().collect();
        for tid in first.into_iter().chain(tids) {
            if self.is_stopped(tid) {
                outcome = outcome.and(go(self, tid));
            }
        }
        outcome
    }

    /// Lets all threads go on, still traced.
    pub(crate) fn resume(&mut self) -> Result<(), StopError> {
        if let Some(tid) = self.prepared.as_ref().map(Prepared::tid) {
            self.forget_prepared(tid);
        }
        self.wanted = false;
        self.let_go(|tracees, tid| {
            let Some(tracee) = tracees.threads.get_mut(&tid) else {
                return Ok(());
            };
            let group = tracee.condition == Condition::Stopped { group: true };
            tracee.condition = Condition::Running;
            let result = if group {
                ptrace::listen(tid)
            } else {
                ptrace::go(tid, Go::Continue, 0)
            };
            tracees.accept(result)
        })?;
        self.end_alarm();
        Ok(())
    }

    /// Lets all threads go on, no longer traced. Every thread is tried; the first failure is told.
    pub(crate) fn detach_stopped(&mut self) -> Result<(), StopError> {
        self.let_go(|tracees, tid| match ptrace::detach(tid) {
            Ok(()) => {
                tracees.threads.remove(&tid);
                Ok(())
            }
            // Killed while stopped: to be reaped below.
            Err(Errno::SRCH) => {
                if let Some(tracee) = tracees.threads.get_mut(&tid) {
                    tracee.condition = Condition::Running;
                }
                Ok(())
            }
            Err(error) => Err(tracees.system("detach from a thread", error)),
        })
    }

    /// Lets go of everything, whatever state it is in: the way back from every error.
    pub(crate) fn release(&mut self) -> Result<(), StopError> {
        // Once more for those that failed: a thread that stands still would be the worst of all marks.
        let detached = self.detach_stopped().or_else(|error| {
            tracing::debug!(%error, "letting threads go once more");
            self.detach_stopped()
        });
        if self.threads.is_empty() && self.strangers.is_empty() {
            return detached;
        }
        // What is left runs, or has been killed. A thread can be let go only while it is stopped.
        self.start_alarm()?;
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
