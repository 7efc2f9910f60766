//! Letting traced threads go: resuming, detaching, and the way back from every error.

use std::time::Duration;

use rustix::io::Errno;

use crate::call::prepared::Prepared;
use crate::process::deadline::Deadline;
use crate::process::task::TaskState;
use crate::sys::ptrace::{self, Go};
use crate::sys::wait::{Waited, wait};
use crate::trace::stop_error::StopError;
use crate::trace::tracees::{Condition, Tracees};

/// How long one thread may keep a processor before another one's turn comes, on kernels that are slow in that.
pub(crate) const TURN: Duration = Duration::from_millis(10);

/// How long the way back waits for threads that it must first stop, besides their turns.
const LAST_CHANCE: Duration = Duration::from_millis(500);

/// How long a thread is waited for that would stop, if it only got a processor, which others may want, too. Half a
/// thread is worse than anything, and if it stopped after we have given up, nobody would let it go on.
pub(crate) const PROCESSOR_WITHIN: Duration = Duration::from_secs(60);

/// After this time those that were let go first are on a processor again. A thread that wakes then goes before one
/// that has been running for a while; one that wakes together with it waits until its turn is over, milliseconds.
const RUNNERS_RUN: Duration = Duration::from_micros(20);

impl Tracees {
    /// Lets go of processes that were attached by accident. They stop at birth.
    pub(crate) fn release_strangers(&mut self) {
        for tid in std::mem::take(&mut self.strangers) {
            // Blocks only until the newborn has reached its first stop, or has ended.
            let deadline = self.process.patience(LAST_CHANCE);
            while matches!(wait(tid, true), Ok(Waited::Nothing)) && !deadline.has_passed() {}
            if let Err(error) = ptrace::detach(tid) {
                tracing::debug!(tid, %error, "a new process is gone before it could be released");
            }
        }
    }

    pub(crate) fn is_stopped(&self, tid: i32) -> bool {
        let tracee = self.threads.get(&tid);
        tracee.is_some_and(|tracee| tracee.condition != Condition::Running)
    }

    pub(crate) fn any_stopped(&self) -> bool {
        self.threads.keys().any(|tid| self.is_stopped(*tid))
    }

    /// Lets the stopped threads go on, each by `go`: those first that were running, and do not have to be
    /// restored before; then those that wake often; then the sleepers. The one that made a call goes before the sleepers
    /// if it was running, and else last: restoring it takes as long as it takes it to get a processor.
    fn let_go(
        &mut self,
        mut go: impl FnMut(&mut Self, i32) -> Result<(), StopError>,
    ) -> Result<(), StopError> {
        // Nothing is looked for or sorted while these wait.
        let runners = std::mem::take(&mut self.runners);
        let any = |tid: &i32| self.is_stopped(*tid) && !self.is_returned(*tid);
        let any = runners.iter().any(any);
        let mut outcome = self.let_go_of(runners, &mut go);
        let lively = std::mem::take(&mut self.lively);
        if any && (self.returned.is_some() || !lively.is_empty()) {
            std::thread::sleep(RUNNERS_RUN);
        }
        outcome = outcome.and(self.let_go_of(lively, &mut go));
        self.end_hurry();
        let returned = self.returned.as_ref().map(|kept| kept.tid);
        if returned.is_some_and(|tid| self.was_running(tid)) {
            outcome = outcome.and(self.finish_call());
            outcome = outcome.and(self.let_go_of(returned.into_iter().collect(), &mut go));
        }
        let sleepers = self.threads.keys().copied().collect();
        outcome = outcome.and(self.let_go_of(sleepers, &mut go));
        outcome = outcome.and(self.finish_call());
        outcome.and(self.let_go_of(returned.into_iter().collect(), &mut go))
    }

    /// Lets those of the threads go on that are stopped, and do not have to be restored before.
    fn let_go_of(
        &mut self,
        tids: Vec<i32>,
        go: &mut impl FnMut(&mut Self, i32) -> Result<(), StopError>,
    ) -> Result<(), StopError> {
        let mut outcome = Ok(());
        for tid in tids {
            if self.is_stopped(tid) && !self.is_returned(tid) {
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
            tracee.was_running = false;
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
        self.let_go(Self::detach)
    }

    /// Lets one stopped thread go on, no longer traced, after whatever call it has made.
    pub(crate) fn detach_one(&mut self, tid: i32) -> Result<(), StopError> {
        let finished = self.finish_call();
        let detached = match self.is_stopped(tid) {
            true => self.detach(tid),
            false => Ok(()),
        };
        if !self.any_stopped() {
            self.end_hurry();
        }
        finished.and(detached)
    }

    fn detach(&mut self, tid: i32) -> Result<(), StopError> {
        match ptrace::detach(tid) {
            Ok(()) => {
                self.threads.remove(&tid);
                Ok(())
            }
            // Killed while stopped: to be reaped later.
            Err(Errno::SRCH) => {
                if let Some(tracee) = self.threads.get_mut(&tid) {
                    tracee.condition = Condition::Running;
                }
                Ok(())
            }
            Err(error) => Err(self.system("detach from a thread", error)),
        }
    }

    /// Waits until a thread stops, and longer if it only lacks a processor for that.
    fn await_last_stop(&mut self, tid: i32, deadline: &Deadline) -> Result<(), StopError> {
        let patience = self.process.patience(PROCESSOR_WITHIN);
        loop {
            match self.await_stop(tid, deadline) {
                Err(StopError::TimedOut { .. })
                    if !patience.has_passed() && self.stops_soon(tid) => {}
                stopped => return stopped,
            }
        }
    }

    /// It has a processor, or wants one; or it has stopped right now.
    pub(crate) fn stops_soon(&self, tid: i32) -> bool {
        let stat = self.process.task(tid).stat();
        let soon = [TaskState::Running, TaskState::Traced];
        matches!(stat, Ok(Some(stat)) if soon.contains(&stat.state))
    }

    /// Lets go of everything, whatever state it is in: the way back from every error.
    pub(crate) fn release(&mut self) -> Result<(), StopError> {
        // Once more for those that failed: a thread that stands still would be the worst of all marks.
        let detached = self.detach_stopped().or_else(|error| {
            tracing::debug!(%error, "letting threads go once more");
            self.detach_stopped()
        });
        if self.threads.is_empty() && self.strangers.is_empty() && !self.adopt_program()? {
            return detached;
        }
        // What is left runs, or has been killed. A thread can be let go only while it is stopped.
        self.start_alarm()?;
        self.wanted = true;
        let turns = u32::try_from(self.threads.len()).unwrap_or(u32::MAX);
        let deadline = self
            .process
            .patience(LAST_CHANCE.saturating_add(TURN.saturating_mul(turns)));
        // The first thread of a killed process can be reaped only after all others.
        let tids: Vec<i32> = self.threads.keys().rev().copied().collect();
        for tid in &tids {
            self.accept(ptrace::interrupt(*tid))?;
        }
        let mut outcome = detached;
        for tid in tids {
            // Threads that were awaited before are let go at once, not when the last is there.
            outcome = outcome
                .and(self.await_last_stop(tid, &deadline))
                .and(self.detach_stopped());
        }
        self.release_strangers();
        match self.adopt_program() {
            Ok(true) => outcome.and(self.release()),
            _ => outcome,
        }
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
