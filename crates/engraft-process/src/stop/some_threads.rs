//! Some threads of a process stand still while all others go on.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::process::deadline::Deadline;
use crate::process::handle::Process;
use crate::process::task::TaskState;
use crate::stop::stopped_thread::{StoppedThread, ThreadState};
use crate::trace::stop_error::StopError;
use crate::trace::tracees::Tracees;

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
        self.stop_before(tids, &self.patience(timeout))
    }

    fn stop_before(&self, tids: &[i32], deadline: &Deadline) -> Result<StoppedThreads, StopError> {
        let mut tracees = Tracees::seize_some(self, tids, deadline)?;
        match tracees.stop(deadline) {
            Ok(()) => {}
            // All of them have ended, but not the process.
            Err(StopError::Gone { .. }) if self.is_alive() => {
                if tracees.adopt_program()? {
                    tracees.stop(deadline)?;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(StoppedThreads {
            tracees,
            tids: tids.to_vec(),
        })
    }

    /// Stops one thread for remote calls: one that sleeps if there is one, and of those the one that has run
    /// least often, which is the least disturbed.
    pub fn borrow_thread(&self, timeout: Duration) -> Result<BorrowedThread, StopError> {
        let deadline = self.patience(timeout);
        // ORDERING: a hint that stands for itself.
        let quiet = self.shared.quiet_tid.load(Ordering::Relaxed);
        let sleeps = |tid| matches!(self.task(tid).stat(), Ok(Some(stat)) if stat.state == TaskState::Sleeping);
        let known = (quiet != 0 && sleeps(quiet)).then_some(quiet);
        if let Some(borrowed) = known
            .map(|tid| self.borrow(tid, &deadline))
            .transpose()?
            .flatten()
        {
            return Ok(borrowed);
        }
        // Calls in the others will be refused, which is then the answer.
        let threads = self.quietest_first()?.into_iter();
        let (bound, free): (Vec<i32>, _) = threads.partition(|tid| self.is_bound_by_filter(*tid));
        for tids in [free, bound] {
            if let Some(borrowed) = self.borrow_one_of(tids, &deadline)? {
                return Ok(borrowed);
            }
        }
        Err(StopError::Gone { pid: self.pid() })
    }

    /// Borrows one of these threads, one that sleeps if possible; `None` if all have ended.
    fn borrow_one_of(
        &self,
        tids: Vec<i32>,
        deadline: &Deadline,
    ) -> Result<Option<BorrowedThread>, StopError> {
        // Those that do not sleep, in case that none does or can be borrowed.
        let (mut running, mut others) = (Vec::new(), Vec::new());
        for tid in tids {
            let stat = self.task(tid).stat().map_err(|it| self.no_list(it))?;
            match stat
                .filter(|stat| !stat.is_kernel_worker())
                .map(|stat| stat.state)
            {
                Some(TaskState::Sleeping) => {
                    if let Some(borrowed) = self.borrow(tid, deadline)? {
                        return Ok(Some(borrowed));
                    }
                }
                Some(TaskState::Running) => running.push(tid),
                Some(TaskState::Dead) | None => {}
                Some(_) => others.push(tid),
            }
        }
        for tid in running.into_iter().chain(others) {
            if let Some(borrowed) = self.borrow(tid, deadline)? {
                return Ok(Some(borrowed));
            }
        }
        Ok(None)
    }

    /// Borrows this thread; `None` if it has ended.
    fn borrow(&self, tid: i32, deadline: &Deadline) -> Result<Option<BorrowedThread>, StopError> {
        let mut threads = self.stop_before(&[tid], deadline)?;
        let stands = threads.thread(tid).is_some();
        if stands {
            // ORDERING: a hint that stands for itself.
            self.shared.quiet_tid.store(tid, Ordering::Relaxed);
        }
        Ok(stands.then_some(BorrowedThread { threads, tid }))
    }

    /// Whether this is the thread that is borrowed for calls.
    pub(crate) fn is_quiet(&self, tid: i32) -> bool {
        // ORDERING: a hint that stands for itself.
        self.shared.quiet_tid.load(Ordering::Relaxed) == tid
    }

    /// The threads, those first that have got a processor least often.
    fn quietest_first(&self) -> Result<Vec<i32>, StopError> {
        let mut threads = Vec::new();
        for tid in self.threads().map_err(|it| self.no_list(it))? {
            let slices = self.slices(tid).map_err(|it| self.no_list(it))?;
            threads.push((self.was_lively(tid), slices.unwrap_or(u64::MAX), tid));
        }
        threads.sort_unstable();
        Ok(threads.into_iter().map(|(_, _, tid)| tid).collect())
    }

    fn no_list(&self, source: io::Error) -> StopError {
        StopError::System {
            pid: self.pid(),
            operation: "list the threads",
            source,
        }
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
