//! A process of which we trace all threads, running or stopped, as types: what may be done is a
//! method of the state.

use std::time::Duration;

use crate::memory::access::{Memory, MemoryError};
use crate::process::handle::Process;
use crate::stop::partly_stopped::PartlyStopped;
use crate::stop::stopped_thread::StoppedThread;
use crate::stop::traced_process::TracedProcess;
use crate::sys::address::TargetAddress;
use crate::trace::stop_error::StopError;
use crate::trace::thread_state::ThreadState;

/// A process of which we trace all threads, and which runs.
///
/// A seized thread stops at every signal and when it starts a thread, and stays stopped until
/// [`SeizedProcess::handle_events`] answers that. So do not stay in this state without calling it.
/// Dropping it detaches from the process.
///
/// ptrace belongs to one thread of ours, so this is not `Send`.
pub struct SeizedProcess {
    traced: TracedProcess,
}

/// A process of which all threads are stopped. Dropping it detaches from the process.
pub struct StoppedProcess {
    traced: TracedProcess,
}

impl SeizedProcess {
    pub(crate) fn seize(process: &Process, timeout: Duration) -> Result<Self, StopError> {
        let deadline = process.patience(timeout);
        let traced = TracedProcess::seize(process, &deadline)?;
        Ok(Self { traced })
    }

    /// The process.
    pub fn process(&self) -> &Process {
        self.traced.process()
    }

    /// Stops all threads, sleepers first, runners last; waits no longer than `timeout`.
    ///
    /// # Errors
    /// Any [`StopError`]; then we have detached from the process. Only a thread that fell into an
    /// uninterruptible sleep at the very last moment stays traced until this thread of ours ends:
    /// see [`on_tracer_thread`].
    pub fn stop(mut self, timeout: Duration) -> Result<StoppedProcess, StopError> {
        let deadline = self.process().patience(timeout);
        self.traced.tracees.await_all_uninterruptible(&deadline)?;
        self.traced.tracees.stop(&deadline)?;
        Ok(StoppedProcess::new(self.traced))
    }

    /// Stops the sleeping threads, while the running ones continue; waits no longer than `timeout`.
    ///
    /// # Errors
    /// As [`SeizedProcess::stop`].
    pub fn stop_sleepers(mut self, timeout: Duration) -> Result<PartlyStopped, StopError> {
        let deadline = self.process().patience(timeout);
        self.traced.tracees.await_all_uninterruptible(&deadline)?;
        self.traced.tracees.stop_sleepers(&deadline)?;
        Ok(PartlyStopped::new(self.traced))
    }

    /// Answers the events since the last call: delivers signals, attaches to new threads.
    ///
    /// # Errors
    /// [`StopError::System`] if a request to the kernel fails.
    pub fn handle_events(&mut self) -> Result<(), StopError> {
        self.traced.tracees.handle_events()
    }

    /// Detaches from the process. Every thread must be stopped for a moment for that; to detach
    /// from a [`StoppedProcess`] is better.
    ///
    /// # Errors
    /// Any [`StopError`], the first of several; all threads were tried.
    pub fn detach(mut self) -> Result<(), StopError> {
        self.traced.detach()
    }
}

impl StoppedProcess {
    pub(super) fn new(traced: TracedProcess) -> Self {
        Self { traced }
    }

    pub(crate) fn stop(process: &Process, timeout: Duration) -> Result<Self, StopError> {
        let deadline = process.patience(timeout);
        let mut traced = TracedProcess::seize(process, &deadline)?;
        traced.tracees.stop(&deadline)?;
        Ok(Self { traced })
    }

    /// The process.
    pub fn process(&self) -> &Process {
        self.traced.process()
    }

    /// The memory of the process.
    pub fn memory(&self) -> Memory<'_> {
        Memory::new(self.process())
    }

    /// All threads of the process.
    pub fn threads(&self) -> impl Iterator<Item = ThreadState> {
        self.threads_where(|_| true)
    }

    /// The threads of which `wanted` says yes. To leave out hundreds that were looked at before
    /// saves time for which others are stopped.
    pub fn threads_where(&self, wanted: impl Fn(i32) -> bool) -> impl Iterator<Item = ThreadState> {
        let threads = self.traced.tracees.threads();
        threads.states_of(self.traced.pid(), wanted)
    }

    /// One thread of the process.
    pub fn thread(&mut self, tid: i32) -> Option<StoppedThread<'_>> {
        StoppedThread::of(&mut self.traced, tid)
    }

    /// The thread that is best suited for remote calls: one for which a call has been prepared;
    /// otherwise one that runs code of the program and slept, if possible the first one, whose
    /// stack has room.
    pub fn calling_thread(&mut self) -> Option<StoppedThread<'_>> {
        let tid = self.traced.calls.best_thread(&self.traced.tracees)?;
        self.thread(tid)
    }

    /// Writes bytes, also where the pages are read-only: see
    /// [`ProtectedWriter::write`](crate::ProtectedWriter::write).
    ///
    /// # Errors
    /// Any [`MemoryError`]; a part may have been written.
    pub fn write_protected(&self, address: TargetAddress, bytes: &[u8]) -> Result<(), MemoryError> {
        let pid = self.traced.pid();
        let tid = self.traced.tracees.threads().lowest();
        let tid = tid.ok_or(MemoryError::Gone { pid })?;
        self.traced.protected_writer(tid).write(address, bytes)
    }

    /// Resumes all threads, runners first, still traced.
    ///
    /// # Errors
    /// [`StopError::Gone`] or [`StopError::System`]; then we have detached from the process.
    pub fn resume(mut self) -> Result<SeizedProcess, StopError> {
        self.traced.resume()?;
        Ok(SeizedProcess {
            traced: self.traced,
        })
    }

    /// Detaches from the process, runners first.
    ///
    /// # Errors
    /// [`StopError::Gone`] if the process has ended; any other [`StopError`], the first of several,
    /// if a thread could not be detached. All threads were tried.
    pub fn detach(mut self) -> Result<(), StopError> {
        self.traced.detach()?;
        match self.process().is_alive() {
            true => Ok(()),
            false => Err(self.traced.tracees.gone()),
        }
    }
}

/// Runs `work` on a thread of its own, which is the tracer of whatever is traced in it. When the
/// thread ends, the kernel detaches everything that is still traced, even a thread in an
/// uninterruptible sleep.
///
/// # Errors
/// `work` has panicked.
pub fn on_tracer_thread<R: Send>(work: impl FnOnce() -> R + Send) -> std::thread::Result<R> {
    std::thread::scope(|scope| scope.spawn(work).join())
}

impl std::fmt::Debug for SeizedProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SeizedProcess")
            .field(&self.traced.pid())
            .finish()
    }
}

impl std::fmt::Debug for StoppedProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StoppedProcess")
            .field(&self.traced.pid())
            .finish()
    }
}
