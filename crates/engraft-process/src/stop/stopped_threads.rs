//! Some threads of a process are stopped while all others run.

use crate::process::deadline::Deadline;
use crate::process::handle::Process;
use crate::stop::stopped_thread::StoppedThread;
use crate::stop::traced_process::TracedProcess;
use crate::trace::stop_error::StopError;
use crate::trace::thread_state::ThreadState;

/// Some threads that are stopped while all others run. Dropping it detaches from them.
///
/// A thread that one of them started while it was being stopped is stopped with them, although it
/// is not shown, and is detached with them.
pub struct StoppedThreads {
    traced: TracedProcess,
    tids: Vec<i32>,
}

impl StoppedThreads {
    /// Stops these threads; ended ones are left out.
    pub(crate) fn stop(
        process: &Process,
        tids: &[i32],
        deadline: &Deadline,
    ) -> Result<Self, StopError> {
        let mut traced = TracedProcess::seize_some(process, tids, deadline)?;
        match traced.tracees.stop(deadline) {
            Ok(()) => {}
            // All of them have ended, but not the process.
            Err(StopError::Gone { .. }) if process.is_alive() => {
                if traced.tracees.adopt_program()? {
                    traced.tracees.stop(deadline)?;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(Self {
            traced,
            tids: tids.to_vec(),
        })
    }

    /// The process to which the threads belong.
    pub fn process(&self) -> &Process {
        self.traced.process()
    }

    /// The requested threads that have not ended.
    pub fn threads(&self) -> impl Iterator<Item = ThreadState> {
        let threads = self.traced.tracees.threads();
        threads.states_of(self.traced.pid(), |tid| self.tids.contains(&tid))
    }

    /// One of the threads; `None` if it has ended.
    pub fn thread(&mut self, tid: i32) -> Option<StoppedThread<'_>> {
        StoppedThread::of(&mut self.traced, tid)
    }

    /// Detaches from the threads.
    ///
    /// # Errors
    /// Any [`StopError`], the first of several; all threads were tried.
    pub fn detach(mut self) -> Result<(), StopError> {
        self.traced.detach()
    }
}

impl std::fmt::Debug for StoppedThreads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StoppedThreads").field(&self.tids).finish()
    }
}
