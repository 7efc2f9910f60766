//! Between the two halves of a stop: sleeping threads are stopped, running threads continue.

use std::time::Duration;

use crate::call::remote_call::RemoteCall;
use crate::call::remote_call_error::RemoteCallError;
use crate::process::handle::Process;
use crate::stop::stopped::StoppedProcess;
use crate::stop::traced_process::TracedProcess;
use crate::trace::stop_error::StopError;
use crate::trace::thread_state::ThreadState;

/// A process whose sleeping threads are stopped, so that there is time to look at them, while its
/// running threads continue. Dropping it detaches from the process.
///
/// As in a [`crate::SeizedProcess`], a running thread stops at every signal and when it starts a
/// thread, until [`PartlyStopped::handle_events`] answers that.
pub struct PartlyStopped {
    traced: TracedProcess,
}

impl PartlyStopped {
    pub(super) fn new(traced: TracedProcess) -> Self {
        Self { traced }
    }

    /// The process.
    pub fn process(&self) -> &Process {
        self.traced.process()
    }

    /// The stopped threads. What is found out about them is final: they stay stopped, or are
    /// killed, until the whole process is resumed. Memory that they share with running threads may
    /// change.
    pub fn threads(&self) -> impl Iterator<Item = ThreadState> {
        let threads = self.traced.tracees.threads();
        threads.states_of(self.traced.pid(), |_| true)
    }

    /// Prepares a call in one of the stopped threads; `None` if none of them can make it.
    ///
    /// When all threads are stopped, [`StoppedProcess::calling_thread`] can then begin at once any
    /// call with the same stack, restorer and system calls. Until then the stack belongs to the
    /// call. A call that is prepared and not made leaves no trace.
    ///
    /// # Errors
    /// Any [`RemoteCallError`] that is not about one thread.
    pub fn prepare_call(&mut self, call: &RemoteCall) -> Result<Option<i32>, RemoteCallError> {
        self.traced.prepare_call(call)
    }

    /// Answers the events of the running threads: delivers signals, attaches to new threads, which
    /// run too.
    ///
    /// # Errors
    /// [`StopError::System`] if a request to the kernel fails.
    pub fn handle_events(&mut self) -> Result<(), StopError> {
        self.traced.tracees.handle_events()
    }

    /// Stops the threads that still run, and all that were started meanwhile; waits no longer than
    /// `timeout`.
    ///
    /// # Errors
    /// As [`crate::SeizedProcess::stop`].
    pub fn stop_rest(mut self, timeout: Duration) -> Result<StoppedProcess, StopError> {
        let deadline = self.process().patience(timeout);
        self.traced.tracees.stop(&deadline)?;
        Ok(StoppedProcess::new(self.traced))
    }

    /// Detaches from the process.
    ///
    /// # Errors
    /// Any [`StopError`], the first of several; all threads were tried.
    pub fn detach(mut self) -> Result<(), StopError> {
        self.traced.detach()
    }
}

impl std::fmt::Debug for PartlyStopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PartlyStopped")
            .field(&self.traced.pid())
            .finish()
    }
}
