//! Attaching to the threads of a process, without stopping them.

use rustix::io::Errno;

use crate::process::deadline::Deadline;
use crate::process::task::{Task, TaskState};
use crate::sys::ptrace;
use crate::trace::reaper::attaching;
use crate::trace::stop_error::StopError;
use crate::trace::tracees::{OPTIONS, Tracees, our_tid};

impl Tracees {
    /// Attaches to every thread.
    pub(crate) fn seize(&mut self, deadline: &Deadline) -> Result<(), StopError> {
        self.refuse_core_dump()?;
        // A seized thread can be detached only while it is stopped. So one that may not stop for
        // long is not even seized.
        let tids = Task::list(self.pid());
        let tids = tids.map_err(|error| self.system("list the threads", error))?;
        self.await_uninterruptible(&tids, deadline)?;
        // A thread that is not yet seized may start others while the list is read. Those that
        // seized threads start are attached at birth. So the set is complete when a look finds
        // none.
        while self.seize_unknown()? {
            if deadline.has_passed() {
                let (pid, tid, timeout) = (self.pid(), self.pid(), deadline.timeout());
                return Err(StopError::TimedOut { pid, tid, timeout });
            }
        }
        match self.threads.is_empty() {
            true => Err(self.gone()),
            false => Ok(()),
        }
    }

    /// Attaches to some threads; ended ones are left out.
    pub(crate) fn seize_some(
        &mut self,
        tids: &[i32],
        deadline: &Deadline,
    ) -> Result<(), StopError> {
        self.refuse_core_dump()?;
        let stats = self.await_uninterruptible(tids, deadline)?;
        self.progress.set_stats(stats);
        for tid in tids {
            self.process().expect_stop_of(*tid);
        }
        self.seize_all(tids)?;
        Ok(())
    }

    fn refuse_core_dump(&self) -> Result<(), StopError> {
        let status = self.process().memory_task().status();
        match status.map_err(|error| self.system("read the status", error))? {
            Some(status) if status.core_dumping => Err(StopError::CoreDumping { pid: self.pid() }),
            _ => Ok(()),
        }
    }

    /// Attaches to the threads that are not yet known; says whether there were any.
    pub(super) fn seize_unknown(&mut self) -> Result<bool, StopError> {
        let tids = Task::list(self.pid());
        let mut tids = tids.map_err(|error| self.system("list the threads", error))?;
        self.threads.forget_ended();
        tids.retain(|tid| !self.threads.contains(*tid));
        self.seize_all(&tids)
    }

    /// Attaches to these threads; says whether there were any.
    fn seize_all(&mut self, tids: &[i32]) -> Result<bool, StopError> {
        match tids {
            [] => Ok(false),
            [tid] if self.threads.is_empty() => self.seize_listed(*tid),
            tids => attaching(self.threads.tids(), |attached| {
                tids.iter().try_fold(false, |found, tid| {
                    let is_new = self.seize_listed(*tid)?;
                    if is_new {
                        attached.add(*tid);
                    }
                    Ok(found | is_new)
                })
            }),
        }
    }

    /// Attaches to a thread whose number was in the list of the process; says whether it is traced
    /// now.
    fn seize_listed(&mut self, tid: i32) -> Result<bool, StopError> {
        if !self.traces_all() {
            // The caller's list may be old, and the number may have become that of another
            // process's thread.
            let stat = self.process().task(tid).stat();
            let stat = stat.map_err(|error| self.system("read the state", error))?;
            if stat.is_none() {
                return Ok(false);
            }
        }
        match ptrace::seize(tid, OPTIONS) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Ok(false),
            Err(Errno::PERM) => {
                if !self.is_ours_from_birth(tid)? {
                    return Ok(false);
                }
            }
            Err(error) => return Err(self.system("attach to a thread", error)),
        }
        self.threads.add(tid);
        Ok(true)
    }

    /// Finds out why a thread may not be attached to: it has ended (false), or was attached at its
    /// birth (true).
    ///
    /// # Errors
    /// Another tracer has the thread, or we have no permission.
    fn is_ours_from_birth(&mut self, tid: i32) -> Result<bool, StopError> {
        let pid = self.pid();
        let task = self.process().task(tid);
        let stat = task.stat();
        match stat.map_err(|error| self.system("read the state", error))? {
            None => return Ok(false),
            Some(stat) if stat.state == TaskState::Dead => {
                self.threads.count_ended();
                return Ok(false);
            }
            Some(_) => {}
        }
        let status = task.status();
        let status = status.map_err(|error| self.system("read the status", error))?;
        match status.map(|status| status.tracer) {
            None => Ok(false),
            Some(0) => Err(StopError::PermissionDenied { pid, tid }),
            Some(tracer) if tracer == our_tid() => Ok(true),
            Some(tracer) => Err(StopError::AlreadyTraced { pid, tracer }),
        }
    }
}
