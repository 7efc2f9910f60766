//! Calls in parts: prepared before all threads stand still, cleaned up after those who matter have gone.

use crate::call::remote::RemoteCall;
use crate::call::remote_error::RemoteCallError;
use crate::call::remote_thread::{Caller, Kept, Result};
use crate::call::requests::Requests;
use crate::call::signal_frame::SignalFrame;
use crate::stop::stopped_thread::ThreadState;
use crate::sys::address::TargetAddress;
use crate::sys::ptrace;
use crate::trace::stop_error::StopError;
use crate::trace::tracees::{Condition, OPTIONS, Tracees};

/// A call that can begin at once: the state of its thread is kept, and its frame is written.
pub(crate) struct Prepared {
    kept: Kept,
    frame: SignalFrame,
    stack_top: TargetAddress,
    restorer: TargetAddress,
    only_loader_calls: bool,
}

impl Prepared {
    pub(crate) fn new(kept: Kept, frame: SignalFrame, call: &RemoteCall) -> Self {
        Self {
            kept,
            frame,
            stack_top: call.stack_top,
            restorer: call.restorer,
            only_loader_calls: call.only_loader_calls,
        }
    }

    pub(crate) fn tid(&self) -> i32 {
        self.kept.tid
    }

    /// Which function is called, and with what, is of no importance to it.
    fn is_for(&self, tid: i32, call: &RemoteCall) -> bool {
        self.kept.tid == tid
            && self.stack_top == call.stack_top
            && self.restorer == call.restorer
            && self.only_loader_calls == call.only_loader_calls
    }
}

impl Tracees {
    /// Calls a function in a stopped thread.
    pub(crate) fn call(
        &mut self,
        tid: i32,
        call: &RemoteCall,
        requests: Option<&mut Requests<'_>>,
    ) -> Result<u64> {
        let ready = |prepared: &mut Prepared| prepared.is_for(tid, call);
        let Prepared { kept, frame, .. } = match self.prepared.take_if(ready) {
            Some(prepared) => prepared,
            None => Caller::new(self, tid)?.prepare(call)?,
        };
        Caller::with(self, kept).call(&frame, call, requests)
    }

    /// Prepares a call in the first of the threads that can make it; `None` if none can.
    pub(crate) fn prepare_call(&mut self, call: &RemoteCall) -> Result<Option<i32>> {
        // Requests may want to write; if it cannot be opened, whoever writes will say so.
        let file = self.process.memory().open_for_writing().ok();
        self.protected.replace(file);
        for tid in self.calling_order() {
            match Caller::new(self, tid).and_then(|caller| caller.prepare(call)) {
                Ok(prepared) => {
                    self.prepared = Some(prepared);
                    return Ok(Some(tid));
                }
                // These say something of the thread, not of the process.
                Err(
                    RemoteCallError::ThreadEnded { .. }
                    | RemoteCallError::KernelWorker { .. }
                    | RemoteCallError::Seccomp { .. }
                    | RemoteCallError::ShadowStack { .. }
                    | RemoteCallError::UnknownEntry { .. },
                ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The stopped threads that may make calls, the best first: those for whom nobody notices that they
    /// stand still a little longer, first of all the one in which calls have been made before; among others
    /// the first thread, whose stack is known to have room.
    pub(crate) fn calling_order(&self) -> Vec<i32> {
        let usable = |thread: &ThreadState| !thread.is_kernel_worker;
        let rank = |thread: ThreadState| {
            let (tid, process) = (thread.tid, &self.process);
            let is_noticed = (thread.was_running, process.was_lively(tid));
            (is_noticed, !process.is_quiet(tid), !thread.is_first, tid)
        };
        let mut threads: Vec<_> = self.states().filter(usable).map(rank).collect();
        threads.sort_unstable();
        threads.into_iter().map(|(_, _, _, tid)| tid).collect()
    }

    /// The first of these in which a call of any kind can be made.
    pub(crate) fn calling_tid(&self) -> Option<i32> {
        if let Some(prepared) = &self.prepared {
            return Some(prepared.tid());
        }
        let order = self.calling_order();
        let is_free = |tid: &&i32| !self.process.is_bound_by_filter(**tid);
        let free = order.iter().find(is_free);
        free.or(order.first()).copied()
    }

    /// What was prepared in this thread is of no use any more.
    pub(crate) fn forget_prepared(&mut self, tid: i32) {
        if let Some(prepared) = self.prepared.take_if(|prepared| prepared.tid() == tid)
            && prepared.kept.suspended
            && let Err(error) = ptrace::set_options(tid, OPTIONS)
        {
            // Only a thread that has been killed answers so.
            tracing::debug!(tid, %error, "a filter was not put in force again");
        }
    }

    /// The thread whose call has returned, and that is yet to be restored.
    pub(crate) fn is_returned(&self, tid: i32) -> bool {
        self.returned.as_ref().is_some_and(|kept| kept.tid == tid)
    }

    /// Restores the thread whose call has returned, if there is one.
    pub(crate) fn restore_returned(&mut self) -> Result<()> {
        let Some(kept) = self.returned.take() else {
            return Ok(());
        };
        if let Some(tracee) = self.threads.get_mut(&kept.tid) {
            // Until it is in an ordinary stop again.
            tracee.condition = Condition::Running;
        }
        Caller::with(self, kept).restore()
    }

    /// The same, where all threads are about to go on, and one that has ended is no failure.
    pub(crate) fn finish_call(&mut self) -> std::result::Result<(), StopError> {
        match self.restore_returned() {
            Ok(()) | Err(RemoteCallError::ThreadEnded { .. }) => Ok(()),
            Err(RemoteCallError::Gone { .. }) => Err(self.gone()),
            Err(error) => Err(self.system("restore a thread", std::io::Error::other(error))),
        }
    }
}
