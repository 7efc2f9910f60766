//! One thread that is stopped for calls while all others run.

use std::io;
use std::time::Duration;

use crate::process::deadline::Deadline;
use crate::process::handle::Process;
use crate::process::task::TaskState;
use crate::stop::stopped_thread::StoppedThread;
use crate::stop::stopped_threads::StoppedThreads;
use crate::trace::stop_error::StopError;

/// One thread that is stopped while all others run: enough to make calls in it. Dropping it
/// detaches from the thread.
pub struct BorrowedThread {
    threads: StoppedThreads,
    tid: i32,
}

impl BorrowedThread {
    /// Stops one thread. The call thread, if it sleeps; otherwise a sleeping thread, if there is
    /// one. Of several, the one that has run least often, which is disturbed least.
    pub(crate) fn borrow(process: &Process, timeout: Duration) -> Result<Self, StopError> {
        let deadline = process.patience(timeout);
        let sleeps = |tid: &i32| matches!(process.task(*tid).stat(), Ok(Some(stat)) if stat.state == TaskState::Sleeping);
        if let Some(tid) = process.call_thread().filter(sleeps)
            && let Some(borrowed) = Self::of(process, tid, &deadline)?
        {
            return Ok(borrowed);
        }
        // Calls in a thread that is bound by a filter will be refused, which is then the answer.
        let threads = seldom_running_first(process)?.into_iter();
        let (bound, free): (Vec<i32>, _) =
            threads.partition(|tid| process.is_bound_by_filter(*tid));
        for tids in [free, bound] {
            if let Some(borrowed) = Self::first_of(process, tids, &deadline)? {
                return Ok(borrowed);
            }
        }
        Err(StopError::Gone { pid: process.pid() })
    }

    /// Borrows one of these threads, one that sleeps if possible; `None` if all have ended.
    fn first_of(
        process: &Process,
        tids: Vec<i32>,
        deadline: &Deadline,
    ) -> Result<Option<Self>, StopError> {
        // In case that none sleeps, or that none of those can be borrowed.
        let (mut running, mut others) = (Vec::new(), Vec::new());
        for tid in tids {
            let stat = process.task(tid).stat();
            let stat = stat.map_err(|source| no_list(process, source))?;
            let stat = stat.filter(|stat| !stat.is_kernel_worker());
            match stat.map(|stat| stat.state) {
                Some(TaskState::Sleeping) => {
                    if let Some(borrowed) = Self::of(process, tid, deadline)? {
                        return Ok(Some(borrowed));
                    }
                }
                Some(TaskState::Running) => running.push(tid),
                Some(TaskState::Dead) | None => {}
                Some(_) => others.push(tid),
            }
        }
        for tid in running.into_iter().chain(others) {
            if let Some(borrowed) = Self::of(process, tid, deadline)? {
                return Ok(Some(borrowed));
            }
        }
        Ok(None)
    }

    /// Borrows this thread; `None` if it has ended.
    fn of(process: &Process, tid: i32, deadline: &Deadline) -> Result<Option<Self>, StopError> {
        let mut threads = StoppedThreads::stop(process, &[tid], deadline)?;
        let is_stopped = threads.thread(tid).is_some();
        if is_stopped {
            process.set_call_thread(tid);
        }
        Ok(is_stopped.then_some(Self { threads, tid }))
    }

    /// The thread; `None` if it has been killed.
    pub fn thread(&mut self) -> Option<StoppedThread<'_>> {
        self.threads.thread(self.tid)
    }

    /// Detaches from the thread.
    ///
    /// # Errors
    /// Any [`StopError`].
    pub fn detach(self) -> Result<(), StopError> {
        self.threads.detach()
    }
}

/// The threads of a process, seldom running ones first. Threads that wake often come last.
fn seldom_running_first(process: &Process) -> Result<Vec<i32>, StopError> {
    let no_list = |source| no_list(process, source);
    let mut threads = Vec::new();
    for tid in process.threads().map_err(no_list)? {
        let slices = process.slices(tid).map_err(no_list)?;
        threads.push((process.woke_often(tid), slices.unwrap_or(u64::MAX), tid));
    }
    threads.sort_unstable();
    Ok(threads.into_iter().map(|(_, _, tid)| tid).collect())
}

fn no_list(process: &Process, source: io::Error) -> StopError {
    StopError::System {
        pid: process.pid(),
        operation: "list the threads",
        source,
    }
}

impl std::fmt::Debug for BorrowedThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BorrowedThread").field(&self.tid).finish()
    }
}
