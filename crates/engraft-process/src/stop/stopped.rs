//! A process that we trace, running or stopped, as types: what may be done is a method of the state.

use std::time::Duration;

use crate::call::gadgets::Gadgets;
use crate::call::signal_frame;
use crate::memory::access::{Memory, MemoryError};
use crate::memory::protected::ProtectedWriter;
use crate::process::deadline::Deadline;
use crate::process::handle::Process;
use crate::stop::partly_stopped::PartlyStopped;
use crate::stop::stopped_thread::{StoppedThread, ThreadState};
use crate::sys::address::TargetAddress;
use crate::sys::signals::ignore_file_size_signal;
use crate::trace::stop_error::StopError;
use crate::trace::tracees::Tracees;

/// A process all of whose threads we trace, and which runs.
///
/// A seized thread stands still at every signal and at every birth of a thread until that is
/// answered by [`SeizedProcess::service`]. So do not stay in this state without calling it.
/// Dropping it lets the process go.
///
/// ptrace belongs to one thread of ours, so this is not `Send`.
pub struct SeizedProcess {
    tracees: Tracees,
}

/// A process all of whose threads stand still. Dropping it lets the process go.
pub struct StoppedProcess {
    tracees: Tracees,
}

impl Process {
    /// Becomes the tracer of all threads, without stopping any. Waits no longer than `timeout` for
    /// threads in an uninterruptible sleep: these could not be let go again.
    pub fn seize(&self, timeout: Duration) -> Result<SeizedProcess, StopError> {
        let deadline = self.patience(timeout);
        Tracees::seize(self, &deadline).map(|tracees| SeizedProcess { tracees })
    }

    /// Stops all threads; waits for that no longer than `timeout`. On failure everything is let go.
    pub fn stop(&self, timeout: Duration) -> Result<StoppedProcess, StopError> {
        let deadline = self.patience(timeout);
        let mut tracees = Tracees::seize(self, &deadline)?;
        tracees.stop(&deadline)?;
        Ok(StoppedProcess { tracees })
    }

    /// Finds now what a first remote system call will need, so that it is not searched for while
    /// the process stands still. Also sees to it that a limit of file sizes of ours (`ulimit -f`) is an error
    /// of a write, not our end.
    pub fn prepare_calls(&self) {
        ignore_file_size_signal();
        self.shared.gadgets.get_or_init(|| Gadgets::find(self));
        signal_frame::prepare();
    }
}

impl SeizedProcess {
    /// The process.
    pub fn process(&self) -> &Process {
        &self.tracees.process
    }

    /// Stops all threads, sleepers first, runners last; waits no longer than `timeout`.
    ///
    /// On failure everything is let go. Only a thread that fell into an uninterruptible sleep at the
    /// very last moment stays traced until this thread of ours ends: see [`on_tracer_thread`].
    pub fn stop(mut self, timeout: Duration) -> Result<StoppedProcess, StopError> {
        let deadline = self.process().patience(timeout);
        self.await_uninterruptible(&deadline)?;
        self.tracees.stop(&deadline)?;
        Ok(StoppedProcess {
            tracees: self.tracees,
        })
    }

    /// Stops the threads that sleep, while those that run go on; waits no longer than `timeout`. On failure
    /// as in [`SeizedProcess::stop`].
    pub fn stop_sleepers(mut self, timeout: Duration) -> Result<PartlyStopped, StopError> {
        let deadline = self.process().patience(timeout);
        self.await_uninterruptible(&deadline)?;
        self.tracees.stop_sleepers(&deadline)?;
        Ok(PartlyStopped::new(self.tracees))
    }

    fn await_uninterruptible(&mut self, deadline: &Deadline) -> Result<(), StopError> {
        let tids: Vec<i32> = self.tracees.threads.keys().copied().collect();
        self.tracees.seen = self.tracees.await_uninterruptible(&tids, deadline)?;
        Ok(())
    }

    /// Answers what has happened since the last time: delivers signals, takes on new threads.
    pub fn service(&mut self) -> Result<(), StopError> {
        self.tracees.service()
    }

    /// Lets the process go. Every thread must be stopped for a moment for that; detaching a
    /// [`StoppedProcess`] is better.
    pub fn detach(mut self) -> Result<(), StopError> {
        self.tracees.release()
    }
}

impl StoppedProcess {
    pub(crate) fn new(tracees: Tracees) -> Self {
        Self { tracees }
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.tracees.process
    }

    /// Its memory.
    pub fn memory(&self) -> Memory<'_> {
        self.tracees.process.memory()
    }

    /// All its threads.
    pub fn threads(&self) -> impl Iterator<Item = ThreadState> {
        self.tracees.states()
    }

    /// Those of its threads that are wanted. To leave out hundreds that were looked at before saves time that
    /// others wait for.
    pub fn threads_where(&self, wanted: impl Fn(i32) -> bool) -> impl Iterator<Item = ThreadState> {
        self.tracees.states_of(wanted)
    }

    /// One of its threads.
    pub fn thread(&mut self, tid: i32) -> Option<StoppedThread<'_>> {
        self.tracees.stopped_thread(tid)
    }

    /// The thread that is best suited for remote calls: one for which a call has been prepared; otherwise one
    /// that runs code of the program and slept, the first one if possible, whose stack is known to
    /// have room.
    pub fn calling_thread(&mut self) -> Option<StoppedThread<'_>> {
        let tid = self.tracees.calling_tid()?;
        self.thread(tid)
    }

    /// Writes bytes, also where the pages are read-only: see [`ProtectedWriter::write`].
    pub fn write_protected(&self, address: TargetAddress, bytes: &[u8]) -> Result<(), MemoryError> {
        let pid = self.tracees.pid();
        let tid = self.tracees.threads.keys().next();
        let tid = *tid.ok_or(MemoryError::Gone { pid })?;
        ProtectedWriter::new(self.process(), tid, &self.tracees.protected).write(address, bytes)
    }

    /// Lets all threads go on, runners first, still traced.
    pub fn resume(mut self) -> Result<SeizedProcess, StopError> {
        self.tracees.resume()?;
        Ok(SeizedProcess {
            tracees: self.tracees,
        })
    }

    /// Lets the process go, runners first.
    pub fn detach(mut self) -> Result<(), StopError> {
        self.tracees.release()?;
        if self.tracees.process.is_alive() {
            Ok(())
        } else {
            Err(self.tracees.gone())
        }
    }
}

/// Runs `work` on a thread of its own, which is the tracer of whatever it traces. When it ends, the
/// kernel lets go of everything that is still traced, even of a thread in an uninterruptible sleep.
pub fn on_tracer_thread<R: Send>(work: impl FnOnce() -> R + Send) -> std::thread::Result<R> {
    std::thread::scope(|scope| scope.spawn(work).join())
}

impl std::fmt::Debug for SeizedProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SeizedProcess")
            .field(&self.tracees.pid())
            .finish()
    }
}

impl std::fmt::Debug for StoppedProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StoppedProcess")
            .field(&self.tracees.pid())
            .finish()
    }
}
