//! Between the two halves of a stop: those who slept stand still, those who run go on.

use std::time::Duration;

use crate::call::remote::RemoteCall;
use crate::call::remote_error::RemoteCallError;
use crate::process::handle::Process;
use crate::stop::stopped::StoppedProcess;
use crate::stop::stopped_thread::ThreadState;
use crate::trace::stop_error::StopError;
use crate::trace::tracees::Tracees;

/// A process whose sleepers stand still, so that they can be looked at without hurry, while those of its
/// threads that run go on. Dropping it lets the process go.
///
/// As in a [`crate::SeizedProcess`], a thread that runs stands still at every signal and at every
/// birth of a thread until that is answered by [`PartlyStopped::service`].
pub struct PartlyStopped {
    tracees: Tracees,
}

impl PartlyStopped {
    pub(crate) fn new(tracees: Tracees) -> Self {
        Self { tracees }
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.tracees.process
    }

    /// The threads that stand still. What is said of them is final: they go on standing still (or are
    /// killed) until everybody is let go. What they share with others may change.
    pub fn threads(&self) -> impl Iterator<Item = ThreadState> {
        self.tracees.states()
    }

    /// Prepares a call in one of the sleepers; `None` if there is none that can make it.
    ///
    /// The call can then begin at once when all stand still: in
    /// [`StoppedProcess::calling_thread`], any call with the same stack, restorer and system calls. Until
    /// then the stack belongs to it. A call that is prepared and not made leaves no mark.
    pub fn prepare_call(&mut self, call: &RemoteCall) -> Result<Option<i32>, RemoteCallError> {
        self.tracees.prepare_call(call)
    }

    /// Answers what has happened to those who run: delivers signals, takes on new threads, which run
    /// too.
    pub fn service(&mut self) -> Result<(), StopError> {
        self.tracees.service()
    }

    /// Stops those who still run, and all threads that were started meanwhile; waits no longer than
    /// `timeout`. On failure everything is let go, as in [`crate::SeizedProcess::stop`].
    pub fn stop_rest(mut self, timeout: Duration) -> Result<StoppedProcess, StopError> {
        let deadline = self.tracees.process.patience(timeout);
        self.tracees.stop(&deadline)?;
        Ok(StoppedProcess::new(self.tracees))
    }

    /// Lets the process go.
    pub fn detach(mut self) -> Result<(), StopError> {
        self.tracees.release()
    }
}

impl std::fmt::Debug for PartlyStopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PartlyStopped")
            .field(&self.tracees.pid())
            .finish()
    }
}
