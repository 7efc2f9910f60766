//! A process that we trace, with the calls that are made in its threads: resuming, detaching, and
//! undoing after every error.

use std::cell::RefCell;
use std::fs::File;
use std::rc::Rc;
use std::time::Duration;

use crate::call::call_slot::CallSlot;
use crate::call::remote_call::RemoteCall;
use crate::call::remote_call_error::RemoteCallError;
use crate::memory::access::Memory;
use crate::memory::protected::ProtectedWriter;
use crate::process::deadline::Deadline;
use crate::process::handle::Process;
use crate::trace::stop_error::StopError;
use crate::trace::tracees::Tracees;

/// The pause after the runners have been resumed, until they are on a processor again. The kernel
/// prefers a thread that wakes later to one that has been running for a while. A thread that wakes
/// together with a runner waits for the end of the runner's time slice, milliseconds.
const RUNNERS_RUN: Duration = Duration::from_micros(20);

/// A process of which we trace all threads, or some. Dropping it detaches from them.
pub(super) struct TracedProcess {
    pub(super) tracees: Tracees,
    pub(super) calls: CallSlot,
    /// The memory, opened for writing into read-only pages.
    protected: Rc<RefCell<Option<File>>>,
}

/// A step that resumes one thread.
type ResumeStep = fn(&mut Tracees, i32) -> Result<(), StopError>;

impl TracedProcess {
    fn none(process: &Process, traces_all: bool) -> Self {
        Self {
            tracees: Tracees::none(process, traces_all),
            calls: CallSlot::default(),
            protected: Rc::default(),
        }
    }

    /// Becomes the tracer of every thread, without stopping any.
    pub(super) fn seize(process: &Process, deadline: &Deadline) -> Result<Self, StopError> {
        let mut traced = Self::none(process, true);
        traced.tracees.seize(deadline)?;
        Ok(traced)
    }

    /// Becomes the tracer of some threads; ended ones are left out.
    pub(super) fn seize_some(
        process: &Process,
        tids: &[i32],
        deadline: &Deadline,
    ) -> Result<Self, StopError> {
        let mut traced = Self::none(process, false);
        traced.tracees.seize_some(tids, deadline)?;
        Ok(traced)
    }

    pub(super) fn process(&self) -> &Process {
        self.tracees.process()
    }

    pub(super) fn pid(&self) -> i32 {
        self.tracees.pid()
    }

    /// Prepares a call in one of the stopped threads.
    pub(super) fn prepare_call(
        &mut self,
        call: &RemoteCall,
    ) -> Result<Option<i32>, RemoteCallError> {
        // The call's requests may want to write. If the memory cannot be opened, the write will
        // report that.
        let file = Memory::new(self.process()).open_for_writing().ok();
        self.protected.replace(file);
        self.calls.prepare(&mut self.tracees, call)
    }

    /// Writes into read-only pages by way of a stopped thread.
    pub(super) fn protected_writer(&self, tid: i32) -> ProtectedWriter {
        ProtectedWriter::new(self.process(), tid, &self.protected)
    }
}

/// Resuming and detaching.
impl TracedProcess {
    /// Resumes the stopped threads, each by `step`: first the runners, then threads that wake
    /// often, then the sleepers. A thread whose call has to be undone is resumed before the
    /// sleepers if it was running, otherwise last: undoing takes until the thread gets a processor.
    fn resume_in_order(&mut self, step: ResumeStep) -> Result<(), StopError> {
        // Nothing is looked for or sorted while the runners wait.
        let runners = self.tracees.progress_mut().take_runners();
        let any_runner = runners.iter().any(|tid| self.can_be_resumed(*tid));
        let mut result = self.resume_each(runners, step);
        let frequent_wakers = self.tracees.progress_mut().take_frequent_wakers();
        if any_runner && (self.calls.returned().is_some() || !frequent_wakers.is_empty()) {
            std::thread::sleep(RUNNERS_RUN);
        }
        result = result.and(self.resume_each(frequent_wakers, step));
        self.tracees.progress_mut().end_short_slice();
        let returned: Vec<i32> = self
            .calls
            .returned()
            .map(|it| it.tid())
            .into_iter()
            .collect();
        let threads = self.tracees.threads();
        if returned.iter().any(|tid| threads.was_running(*tid)) {
            result = result.and(self.calls.finish(&mut self.tracees));
            result = result.and(self.resume_each(returned.clone(), step));
        }
        result = result.and(self.resume_each(self.tracees.threads().tids(), step));
        result = result.and(self.calls.finish(&mut self.tracees));
        result.and(self.resume_each(returned, step))
    }

    /// Resumes every thread that can be resumed. Each is tried; the first failure is the result.
    fn resume_each(&mut self, tids: Vec<i32>, step: ResumeStep) -> Result<(), StopError> {
        let mut result = Ok(());
        for tid in tids {
            if self.can_be_resumed(tid) {
                result = result.and(step(&mut self.tracees, tid));
            }
        }
        result
    }

    /// Whether the thread is stopped, and does not have to be restored first.
    fn can_be_resumed(&self, tid: i32) -> bool {
        self.tracees.threads().is_stopped(tid) && !self.calls.has_returned_in(tid)
    }

    /// Resumes all threads, still traced.
    pub(super) fn resume(&mut self) -> Result<(), StopError> {
        self.calls.forget_prepared();
        self.tracees.progress_mut().set_stopping(false);
        self.resume_in_order(Tracees::resume)?;
        self.tracees.progress_mut().end_alarm();
        Ok(())
    }

    /// Detaches from one stopped thread, after whatever call it has made.
    pub(super) fn detach_one(&mut self, tid: i32) -> Result<(), StopError> {
        let finished = self.calls.finish(&mut self.tracees);
        let detached = match self.tracees.threads().is_stopped(tid) {
            true => self.tracees.detach(tid),
            false => Ok(()),
        };
        if !self.tracees.threads().any_stopped() {
            self.tracees.progress_mut().end_short_slice();
        }
        finished.and(detached)
    }

    /// Detaches from all stopped threads. Each is tried; the first failure is the result.
    fn detach_stopped(&mut self) -> Result<(), StopError> {
        self.resume_in_order(Tracees::detach)
    }

    /// Detaches from everything, whatever state it is in: this undoes a stop after every error.
    pub(super) fn detach(&mut self) -> Result<(), StopError> {
        // After a failure once more: a thread that stays stopped would be the worst result of all.
        let detached = self.detach_stopped().or_else(|error| {
            tracing::debug!(%error, "detaching once more");
            self.detach_stopped()
        });
        if self.tracees.threads().is_nothing_traced() && !self.tracees.adopt_program()? {
            return detached;
        }
        // The remaining threads run, or have been killed. A thread can be detached only while it is
        // stopped.
        let (tids, deadline) = self.tracees.request_last_stops()?;
        let mut result = detached;
        for tid in tids {
            // Each is detached as soon as it has stopped, not when the last one has.
            result = result
                .and(self.tracees.await_last_stop(tid, &deadline))
                .and(self.detach_stopped());
        }
        self.tracees.detach_foreign_children();
        match self.tracees.adopt_program() {
            Ok(true) => result.and(self.detach()),
            _ => result,
        }
    }
}

impl Drop for TracedProcess {
    fn drop(&mut self) {
        if self.tracees.threads().is_nothing_traced() {
            return;
        }
        if let Err(error) = self.detach() {
            // The kernel detaches what is left when this thread of ours ends.
            tracing::warn!(pid = self.pid(), %error, "threads remain traced");
        }
    }
}
