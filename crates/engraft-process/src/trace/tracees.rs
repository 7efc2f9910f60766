//! The threads that this thread of ours traces.
//!
//! ptrace belongs to the tracing thread, not to its process: each request must come from the thread
//! that attached. So nothing in here is `Send`.

use std::io;
use std::marker::PhantomData;

use rustix::io::Errno;

use crate::process::handle::Process;
use crate::process::task::TaskState;
use crate::sys::ptrace;
use crate::trace::stop_error::StopError;
use crate::trace::stop_progress::StopProgress;
use crate::trace::traced_threads::TracedThreads;

/// New threads are attached as they are born; stops at system calls are told from signals; an exec
/// is reported.
pub(crate) const OPTIONS: i32 =
    libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXEC;

/// Traced threads of one process.
pub(crate) struct Tracees {
    process: Process,
    pub(super) threads: TracedThreads,
    pub(super) progress: StopProgress,
    /// All threads are traced. Otherwise some, and the threads that they start.
    traces_all: bool,
    executed: bool,
    /// ptrace is per thread: neither `Send` nor `Sync`.
    _this_thread: PhantomData<*const ()>,
}

impl Tracees {
    /// Traces nothing yet. The owner detaches what comes to be traced: there is no `Drop` here,
    /// because a call in one of the threads may have to be undone before (`stop::traced_process`).
    pub(crate) fn none(process: &Process, traces_all: bool) -> Self {
        Self {
            process: process.clone(),
            threads: TracedThreads::default(),
            progress: StopProgress::default(),
            traces_all,
            executed: false,
            _this_thread: PhantomData,
        }
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub(crate) fn threads(&self) -> &TracedThreads {
        &self.threads
    }

    pub(crate) fn threads_mut(&mut self) -> &mut TracedThreads {
        &mut self.threads
    }

    pub(crate) fn progress_mut(&mut self) -> &mut StopProgress {
        &mut self.progress
    }

    pub(super) fn traces_all(&self) -> bool {
        self.traces_all
    }

    /// Whether the process runs another program since it is traced.
    pub(super) fn has_executed(&self) -> bool {
        self.executed
    }

    pub(super) fn note_exec(&mut self) {
        self.executed = true;
    }

    pub(crate) fn gone(&self) -> StopError {
        StopError::Gone { pid: self.pid() }
    }

    pub(crate) fn system(
        &self,
        operation: &'static str,
        source: impl Into<io::Error>,
    ) -> StopError {
        StopError::System {
            pid: self.pid(),
            operation,
            source: source.into(),
        }
    }

    pub(crate) fn start_alarm(&mut self) -> Result<(), StopError> {
        let started = self.progress.start_alarm();
        started.map_err(|error| self.system("start a timer", error))
    }

    /// The result of a request to a thread. `ESRCH` or `EIO` means that the thread was killed while
    /// it was stopped; its end will be reported.
    pub(super) fn accept(&self, result: Result<(), Errno>) -> Result<(), StopError> {
        match result {
            Ok(()) | Err(Errno::SRCH | Errno::IO) => Ok(()),
            Err(error) => Err(self.system("continue a thread", error)),
        }
    }

    pub(super) fn interrupt(&self, tids: &[i32]) -> Result<(), StopError> {
        for tid in tids {
            match ptrace::interrupt(*tid) {
                // ESRCH, EIO: the thread has ended; the wait will report it.
                Ok(()) | Err(Errno::SRCH | Errno::IO) => {}
                Err(error) => return Err(self.system("interrupt a thread", error)),
            }
        }
        Ok(())
    }

    /// Looks for a thread of ours that has got another number. A thread that is not the first one
    /// and runs another program takes the number of the first one. If we trace some threads only,
    /// and not the first one, it is stopped then under a number that we do not know. Adds it, and
    /// says whether there was one.
    pub(crate) fn adopt_program(&mut self) -> Result<bool, StopError> {
        let pid = self.pid();
        if self.traces_all || self.threads.contains(pid) || !self.threads.take_any_ended() {
            return Ok(false);
        }
        let status = self.process.task(pid).status();
        let status = status.map_err(|error| self.system("read the status", error))?;
        let stat = self.process.task(pid).stat();
        let stat = stat.map_err(|error| self.system("read the state", error))?;
        let lives = stat.is_some_and(|stat| stat.state != TaskState::Dead);
        let is_ours = lives && status.is_some_and(|status| status.tracer == our_tid());
        if is_ours {
            self.threads.add(pid);
            // The exec may have happened before we attached; then it is not reported again.
            self.executed = true;
        }
        Ok(is_ours)
    }
}

/// The number of this thread of ours.
pub(super) fn our_tid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}
