//! The threads of one process that we trace, and what is known of each.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use crate::process::task::{TaskStat, TaskState, or_gone};
use crate::sys::registers::Registers;
use crate::trace::thread_state::ThreadState;

/// What a traced thread is doing, as far as the kernel has told us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It runs, or sleeps in the kernel.
    Running,
    /// It is in a ptrace stop from which it can continue anywhere.
    Stopped {
        /// The whole process is stopped by SIGSTOP or the like: this thread must not be continued.
        group: bool,
    },
}

/// One traced thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TracedThread {
    condition: Condition,
    was_running: bool,
    is_kernel_worker: bool,
    /// Valid while the thread is stopped.
    registers: Registers,
}

/// The traced threads of one process.
#[derive(Debug, Default)]
pub(crate) struct TracedThreads {
    threads: BTreeMap<i32, TracedThread>,
    /// How many threads the kernel still lists although they have ended, at the last look.
    ended: u64,
    /// A thread has ended, or has got another number, since this was last asked for.
    any_ended: bool,
    /// Processes that the kernel attached us to, because a thread started them by a plain `clone`.
    foreign_children: Vec<i32>,
    /// The task directory, opened: its link count shows whether all threads are known.
    directory: Option<File>,
}

impl TracedThread {
    fn new() -> Self {
        Self {
            condition: Condition::Running,
            was_running: false,
            is_kernel_worker: false,
            registers: Registers::default(),
        }
    }

    pub(crate) fn condition(&self) -> Condition {
        self.condition
    }

    /// The thread never runs code of the program (an io_uring worker).
    pub(crate) fn is_kernel_worker(&self) -> bool {
        self.is_kernel_worker
    }

    /// The registers; valid while the thread is stopped.
    pub(crate) fn registers(&self) -> &Registers {
        &self.registers
    }
}

/// The threads themselves.
impl TracedThreads {
    /// Adds a thread that runs. One that is known already stays as it is.
    pub(crate) fn add(&mut self, tid: i32) {
        self.threads.entry(tid).or_insert_with(TracedThread::new);
    }

    /// Removes a thread that is no longer traced.
    pub(crate) fn remove(&mut self, tid: i32) {
        self.threads.remove(&tid);
    }

    /// Removes a thread whose end the kernel has reported.
    pub(crate) fn remove_ended(&mut self, tid: i32) {
        self.threads.remove(&tid);
        self.any_ended = true;
    }

    /// Removes a first thread that has ended and is still listed: the kernel reports its end only
    /// after all other threads have ended.
    pub(crate) fn remove_ended_leader(&mut self, tid: i32) {
        self.threads.remove(&tid);
        self.ended += 1;
    }

    pub(crate) fn get(&self, tid: i32) -> Option<&TracedThread> {
        self.threads.get(&tid)
    }

    pub(crate) fn contains(&self, tid: i32) -> bool {
        self.threads.contains_key(&tid)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.threads.is_empty()
    }

    /// The numbers of all traced threads, ascending.
    pub(crate) fn tids(&self) -> Vec<i32> {
        self.threads.keys().copied().collect()
    }

    /// The lowest number of a traced thread.
    pub(crate) fn lowest(&self) -> Option<i32> {
        self.threads.keys().next().copied()
    }
}

/// What each thread is doing.
impl TracedThreads {
    pub(crate) fn is_running(&self, tid: i32) -> bool {
        let thread = self.threads.get(&tid);
        thread.is_some_and(|thread| thread.condition == Condition::Running)
    }

    pub(crate) fn is_stopped(&self, tid: i32) -> bool {
        let thread = self.threads.get(&tid);
        thread.is_some_and(|thread| thread.condition != Condition::Running)
    }

    pub(crate) fn any_stopped(&self) -> bool {
        let mut threads = self.threads.values();
        threads.any(|thread| thread.condition != Condition::Running)
    }

    pub(crate) fn any_running(&self) -> bool {
        let mut threads = self.threads.values();
        threads.any(|thread| thread.condition == Condition::Running)
    }

    /// The threads that are not stopped, ascending.
    pub(crate) fn running(&self) -> Vec<i32> {
        let is_running =
            |(_, thread): &(&i32, &TracedThread)| thread.condition == Condition::Running;
        let running = self.threads.iter().filter(is_running);
        running.map(|(tid, _)| *tid).collect()
    }

    /// Whether the thread was on a processor, or waited for one, when the stop began.
    pub(crate) fn was_running(&self, tid: i32) -> bool {
        let thread = self.threads.get(&tid);
        thread.is_some_and(|thread| thread.was_running)
    }

    /// Notes what /proc shows of a thread right before it is stopped. It may be called again in the
    /// second half of a stop, in which the thread may sleep.
    pub(crate) fn note_stat(&mut self, tid: i32, stat: &TaskStat) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.is_kernel_worker = stat.is_kernel_worker();
            thread.was_running |= stat.state == TaskState::Running;
        }
    }

    pub(crate) fn set_condition(&mut self, tid: i32, condition: Condition) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.condition = condition;
        }
    }

    pub(crate) fn set_registers(&mut self, tid: i32, registers: &Registers) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.registers = *registers;
        }
    }

    /// Notes that a thread was resumed: the next stop finds out anew what it was doing.
    pub(crate) fn note_resumed(&mut self, tid: i32) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.condition = Condition::Running;
            thread.was_running = false;
        }
    }

    /// The stopped threads, of which `wanted` says yes, as callers see them.
    pub(crate) fn states_of(
        &self,
        pid: i32,
        wanted: impl Fn(i32) -> bool,
    ) -> impl Iterator<Item = ThreadState> {
        let threads = self.threads.iter().filter(move |(tid, _)| wanted(**tid));
        threads.filter_map(move |(tid, thread)| thread.state(pid, *tid))
    }

    /// One thread as callers see it; `None` if it is not stopped.
    pub(crate) fn state(&self, pid: i32, tid: i32) -> Option<ThreadState> {
        self.threads.get(&tid)?.state(pid, tid)
    }
}

impl TracedThread {
    fn state(&self, pid: i32, tid: i32) -> Option<ThreadState> {
        let Condition::Stopped { group } = self.condition else {
            return None;
        };
        Some(ThreadState {
            tid,
            registers: self.registers,
            was_running: self.was_running,
            is_kernel_worker: self.is_kernel_worker,
            is_first: tid == pid,
            is_group_stopped: group,
        })
    }
}

/// Whether these are all threads of the process.
impl TracedThreads {
    /// The list of threads is about to be read again.
    pub(crate) fn forget_ended(&mut self) {
        self.ended = 0;
    }

    /// The list has a thread that has ended and cannot be attached to.
    pub(crate) fn count_ended(&mut self) {
        self.ended += 1;
    }

    /// Opens the task directory, for [`Self::are_complete`]: it is asked for while all threads are
    /// stopped, so the time for opening is spent before.
    ///
    /// # Errors
    /// The directory cannot be opened. That the process has ended is none.
    pub(crate) fn open_directory(&mut self, pid: i32) -> io::Result<()> {
        if self.directory.is_none() {
            self.directory = or_gone(File::open(format!("/proc/{pid}/task")))?;
        }
        Ok(())
    }

    /// The kernel announces each thread that a traced thread starts, except with `CLONE_UNTRACED`.
    /// The link count of the task directory, which is the number of threads plus two, shows those
    /// at the price of one system call.
    pub(crate) fn are_complete(&self) -> bool {
        let expected = self.threads.len() as u64 + self.ended + 2;
        let now = self.directory.as_ref().map(File::metadata);
        matches!(now, Some(Ok(now)) if now.nlink() == expected)
    }

    /// Whether a thread has ended since the last call.
    pub(crate) fn take_any_ended(&mut self) -> bool {
        std::mem::take(&mut self.any_ended)
    }
}

/// Processes that we trace by accident.
impl TracedThreads {
    pub(crate) fn add_foreign_child(&mut self, tid: i32) {
        self.foreign_children.push(tid);
    }

    pub(crate) fn take_foreign_children(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.foreign_children)
    }

    /// Whether nothing is traced at all.
    pub(crate) fn is_nothing_traced(&self) -> bool {
        self.threads.is_empty() && self.foreign_children.is_empty()
    }
}
