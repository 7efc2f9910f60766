//! Resuming and detaching single threads.

use rustix::io::Errno;

use crate::process::deadline::Deadline;
use crate::process::task::TaskState;
use crate::sys::ptrace::{self, Resume};
use crate::trace::patience::{LAST_CHANCE, LONGEST_SLICE, PROCESSOR_WITHIN};
use crate::trace::stop_error::StopError;
use crate::trace::traced_threads::Condition;
use crate::trace::tracees::Tracees;

impl Tracees {
    /// Resumes one stopped thread, still traced.
    pub(crate) fn resume(&mut self, tid: i32) -> Result<(), StopError> {
        let Some(thread) = self.threads.get(tid) else {
            return Ok(());
        };
        let is_group_stop = thread.condition() == Condition::Stopped { group: true };
        self.threads.note_resumed(tid);
        self.accept(match is_group_stop {
            true => ptrace::listen(tid),
            false => ptrace::resume(tid, Resume::Continue, 0),
        })
    }

    /// Resumes one stopped thread, no longer traced.
    pub(crate) fn detach(&mut self, tid: i32) -> Result<(), StopError> {
        match ptrace::detach(tid) {
            Ok(()) => {
                self.threads.remove(tid);
                Ok(())
            }
            // Killed while it was stopped: to be reaped later.
            Err(Errno::SRCH) => {
                self.threads.set_condition(tid, Condition::Running);
                Ok(())
            }
            Err(error) => Err(self.system("detach from a thread", error)),
        }
    }

    /// Asks all threads that are still traced to stop, so that they can be detached. Returns them
    /// in the order in which to wait for them, and until when.
    pub(crate) fn request_last_stops(&mut self) -> Result<(Vec<i32>, Deadline), StopError> {
        self.start_alarm()?;
        self.progress.set_stopping(true);
        // The first thread of a killed process can be reaped only after all others.
        let tids: Vec<i32> = self.threads.tids().into_iter().rev().collect();
        let slices = u32::try_from(tids.len()).unwrap_or(u32::MAX);
        let time = LAST_CHANCE.saturating_add(LONGEST_SLICE.saturating_mul(slices));
        let deadline = self.process().patience(time);
        for tid in &tids {
            self.accept(ptrace::interrupt(*tid))?;
        }
        Ok((tids, deadline))
    }

    /// Waits until a thread stops, and longer if it only lacks a processor for that.
    pub(crate) fn await_last_stop(
        &mut self,
        tid: i32,
        deadline: &Deadline,
    ) -> Result<(), StopError> {
        let patience = self.process().patience(PROCESSOR_WITHIN);
        loop {
            match self.await_stop(tid, deadline) {
                Err(StopError::TimedOut { .. })
                    if !patience.has_passed() && self.stops_soon(tid) => {}
                stopped => return stopped,
            }
        }
    }

    /// Whether the thread has a processor, or waits for one, or has stopped right now.
    pub(crate) fn stops_soon(&self, tid: i32) -> bool {
        let stat = self.process().task(tid).stat();
        let soon = [TaskState::Running, TaskState::Traced];
        matches!(stat, Ok(Some(stat)) if soon.contains(&stat.state))
    }
}
