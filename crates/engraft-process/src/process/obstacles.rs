//! What would prevent a stop or a remote call, as far as /proc shows it. No thread is disturbed.

use std::io;

use crate::process::handle::Process;
use crate::process::task::{Task, TaskState};

/// How seccomp confines a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seccomp {
    /// Only read, write, exit and sigreturn.
    Strict,
    /// What a filter allows. /proc does not show what that is.
    Filter,
}

/// What would prevent a stop or a remote call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Obstacles {
    /// The process is traced by this thread.
    pub tracer: Option<i32>,
    /// The process is dying, and writes its memory to a file.
    pub core_dumping: bool,
    /// A thread in an uninterruptible sleep.
    pub uninterruptible: Option<i32>,
    /// Threads that seccomp confines.
    pub seccomp: Vec<(i32, Seccomp)>,
    /// How many threads seccomp does not confine.
    pub unconfined: usize,
}

impl Process {
    /// Looks at all threads.
    ///
    /// # Errors
    /// What the system reports.
    pub fn obstacles(&self) -> io::Result<Obstacles> {
        let mut obstacles = Obstacles::default();
        for tid in self.threads()? {
            obstacles.add(&self.task(tid), tid)?;
        }
        Ok(obstacles)
    }
}

impl Obstacles {
    fn add(&mut self, task: &Task, tid: i32) -> io::Result<()> {
        let (Some(status), Some(stat)) = (task.status()?, task.stat()?) else {
            return Ok(());
        };
        if stat.is_kernel_worker() || stat.state == TaskState::Dead {
            return Ok(());
        }
        if status.tracer != 0 {
            self.tracer = Some(status.tracer);
        }
        self.core_dumping |= status.core_dumping;
        if stat.state == TaskState::Uninterruptible {
            self.uninterruptible = Some(tid);
        }
        match status.seccomp {
            0 => self.unconfined += 1,
            1 => self.seccomp.push((tid, Seccomp::Strict)),
            _ => self.seccomp.push((tid, Seccomp::Filter)),
        }
        Ok(())
    }
}
