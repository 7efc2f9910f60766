//! Some threads of a process stand still while all others go on.

use std::time::Duration;

use crate::deadline::Deadline;
use crate::process::Process;
use crate::stop_error::StopError;
use crate::stopped_thread::{StoppedThread, ThreadState};
use crate::task::TaskState;
use crate::tracees::Tracees;

/// Some threads that stand still while all others go on. Dropping it lets them go.
///
/// A thread that one of them started while it was being stopped stands still with them, although it
/// is not shown, and is let go with them.
pub struct StoppedThreads {
    tracees: Tracees,
    tids: Vec<i32>,
}

/// One thread that stands still while all others go on: enough to make calls in it. Dropping it lets it
/// go.
pub struct BorrowedThread {
    threads: StoppedThreads,
    tid: i32,
}

impl Process {
    /// Stops just these threads; waits for that no longer than `timeout`. Those that have ended are left
    /// out. On failure everything is let go.
    pub fn stop_threads(
        &self,
        tids: &[i32],
        timeout: Duration,
    ) -> Result<StoppedThreads, StopError> {
        self.stop_before(tids, &Deadline::after(timeout))
    }

    fn stop_before(&self, tids: &[i32], deadline: &Deadline) -> Result<StoppedThreads, StopError> {
        let mut tracees = Tracees::seize_some(self, tids, deadline)?;
        match tracees.stop(deadline) {
            Ok(()) => {}
            // All of them have ended, but not the process.
            Err(StopError::Gone { .. }) if self.is_alive() => {}
            Err(error) => return Err(error),
        }
        Ok(StoppedThreads {
            tracees,
            tids: tids.to_vec(),
        })
    }

    /// Stops one thread for remote calls, one that sleeps if there is one: it is the least disturbed.
    pub fn borrow_thread(&self, timeout: Duration) -> Result<BorrowedThread, StopError> {
        let system = |source| StopError::System {
            pid: self.pid(),
            operation: "list the threads",
            source,
        };
        let mut candidates = Vec::new();
        for tid in self.threads().map_err(system)? {
            let Some(stat) = self.task(tid).stat().map_err(system)? else {
                continue;
            };
            let order = match stat.state {
                TaskState::Sleeping => 0,
                TaskState::Running => 1,
                TaskState::Dead => continue,
                _ => 2,
            };
            if !stat.is_kernel_worker() {
                candidates.push((order, tid));
            }
        }
        candidates.sort_unstable();
        let deadline = Deadline::after(timeout);
        for (_, tid) in candidates {
            // It may end at any moment; then another one will do.
            let mut threads = self.stop_before(&[tid], &deadline)?;
            if threads.thread(tid).is_some() {
                return Ok(BorrowedThread { threads, tid });
            }
        }
        Err(StopError::Gone { pid: self.pid() })
    }
}

impl StoppedThreads {
    /// The process that they belong to.
    pub fn process(&self) -> &Process {
        &self.tracees.process
    }

    /// Those of the threads asked for that have not ended.
    pub fn threads(&self) -> impl Iterator<Item = ThreadState> {
        let asked_for = |thread: &ThreadState| self.tids.contains(&thread.tid);
        self.tracees.states().filter(asked_for)
    }

    /// One of them, to be worked with; `None` if it has ended.
    pub fn thread(&mut self, tid: i32) -> Option<StoppedThread<'_>> {
        self.tracees.stopped_thread(tid)
    }

    /// Lets them go.
    pub fn detach(mut self) -> Result<(), StopError> {
        self.tracees.release()
    }
}

impl BorrowedThread {
    /// The thread, to be worked with; `None` if it has been killed.
    pub fn thread(&mut self) -> Option<StoppedThread<'_>> {
        self.threads.thread(self.tid)
    }

    /// Lets the thread go.
    pub fn detach(self) -> Result<(), StopError> {
        self.threads.detach()
    }
}

impl std::fmt::Debug for BorrowedThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BorrowedThread").field(&self.tid).finish()
    }
}

impl std::fmt::Debug for StoppedThreads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StoppedThreads").field(&self.tids).finish()
    }
}
