//! The calls that are made in the threads of one stopped process: the one that is prepared, and the
//! one that has returned.

use std::ffi::CStr;

use crate::call::call_thread::{CallState, CallThread, Result};
use crate::call::function_call::PreparedCall;
use crate::call::remote_call::RemoteCall;
use crate::call::remote_call_error::RemoteCallError;
use crate::call::requests::Requests;
use crate::trace::stop_error::StopError;
use crate::trace::thread_state::ThreadState;
use crate::trace::traced_threads::Condition;
use crate::trace::tracees::Tracees;

/// The calls of one stopped process. At most one of each kind is under way.
#[derive(Default)]
pub(crate) struct CallSlot {
    /// A call that can begin at once.
    prepared: Option<PreparedCall>,
    /// A call whose function has returned, and whose thread is yet to be restored.
    returned: Option<CallState>,
}

/// Making calls.
impl CallSlot {
    /// Calls a function in a stopped thread.
    pub(crate) fn call(
        &mut self,
        tracees: &mut Tracees,
        tid: i32,
        call: &RemoteCall,
        requests: Option<&mut Requests<'_>>,
    ) -> Result<u64> {
        let is_ready = |prepared: &mut PreparedCall| prepared.is_for(tid, call);
        let prepared = match self.prepared.take_if(is_ready) {
            Some(prepared) => prepared,
            None => self.begin(tracees, tid)?.prepare(call)?,
        };
        let thread = CallThread::with(tracees, prepared.state);
        thread.call(&prepared.frame, call, requests, &mut self.returned)
    }

    /// Makes a system call in a stopped thread.
    pub(crate) fn system_call(
        &mut self,
        tracees: &mut Tracees,
        tid: i32,
        number: i64,
        arguments: [u64; 6],
        text: Option<&CStr>,
    ) -> Result<u64> {
        let thread = self.begin(tracees, tid)?;
        thread.system_call(number, arguments, text)
    }

    /// Prepares a call in the best of the stopped threads that can make it; `None` if none can.
    pub(crate) fn prepare(
        &mut self,
        tracees: &mut Tracees,
        call: &RemoteCall,
    ) -> Result<Option<i32>> {
        for tid in calling_order(tracees) {
            let prepared = self.begin(tracees, tid);
            match prepared.and_then(|thread| thread.prepare(call)) {
                Ok(prepared) => {
                    self.prepared = Some(prepared);
                    return Ok(Some(tid));
                }
                // These are about the thread, not the process.
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

    /// The thread for which a call is prepared; otherwise the best of those in which any call can
    /// be made.
    pub(crate) fn best_thread(&self, tracees: &Tracees) -> Option<i32> {
        if let Some(prepared) = &self.prepared {
            return Some(prepared.state.tid);
        }
        let order = calling_order(tracees);
        let is_free = |tid: &&i32| !tracees.process().is_bound_by_filter(**tid);
        let free = order.iter().find(is_free);
        free.or(order.first()).copied()
    }

    /// Begins a call in a thread, in which an earlier one is undone.
    fn begin<'t>(&mut self, tracees: &'t mut Tracees, tid: i32) -> Result<CallThread<'t>> {
        self.restore_returned(tracees)?;
        self.forget_prepared_in(tid);
        CallThread::new(tracees, tid)
    }
}

/// Undoing calls.
impl CallSlot {
    /// Forgets a call that is prepared in this thread.
    pub(crate) fn forget_prepared_in(&mut self, tid: i32) {
        let is_in_thread = |prepared: &mut PreparedCall| prepared.state.tid == tid;
        if let Some(prepared) = self.prepared.take_if(is_in_thread) {
            prepared.forget();
        }
    }

    /// Forgets a call that is prepared.
    pub(crate) fn forget_prepared(&mut self) {
        if let Some(prepared) = self.prepared.take() {
            prepared.forget();
        }
    }

    /// The call whose function has returned.
    pub(crate) fn returned(&self) -> Option<&CallState> {
        self.returned.as_ref()
    }

    /// Whether this thread's call has returned, and the thread is yet to be restored.
    pub(crate) fn has_returned_in(&self, tid: i32) -> bool {
        let returned = self.returned.as_ref();
        returned.is_some_and(|returned| returned.tid == tid)
    }

    /// Restores the thread whose call has returned, if there is one.
    fn restore_returned(&mut self, tracees: &mut Tracees) -> Result<()> {
        let Some(returned) = self.returned.take() else {
            return Ok(());
        };
        // Until the thread is in an ordinary stop again.
        let threads = tracees.threads_mut();
        threads.set_condition(returned.tid, Condition::Running);
        CallThread::with(tracees, returned).restore()
    }

    /// Restores the thread whose call has returned, before threads are resumed: that the thread has
    /// ended is no failure.
    pub(crate) fn finish(&mut self, tracees: &mut Tracees) -> std::result::Result<(), StopError> {
        match self.restore_returned(tracees) {
            Ok(()) | Err(RemoteCallError::ThreadEnded { .. }) => Ok(()),
            Err(RemoteCallError::Gone { .. }) => Err(tracees.gone()),
            Err(error) => Err(tracees.system("restore a thread", std::io::Error::other(error))),
        }
    }
}

impl CallState {
    /// The thread's extended state as it was before the call.
    pub(crate) fn extended_state(&self) -> &[u8] {
        &self.saved.extended_state
    }
}

/// The stopped threads that may make calls, the best first. Better are threads that a longer stop
/// disturbs least: sleepers that wake seldom. Of these, the call thread comes first, then the first
/// thread of the process, whose stack has room.
fn calling_order(tracees: &Tracees) -> Vec<i32> {
    let process = tracees.process();
    let usable = |thread: &ThreadState| !thread.is_kernel_worker;
    let rank = |thread: ThreadState| {
        let tid = thread.tid;
        let is_noticed = (thread.was_running, process.woke_often(tid));
        (
            is_noticed,
            !process.is_call_thread(tid),
            !thread.is_first,
            tid,
        )
    };
    let states = tracees.threads().states_of(tracees.pid(), |_| true);
    let mut threads: Vec<_> = states.filter(usable).map(rank).collect();
    threads.sort_unstable();
    threads.into_iter().map(|(_, _, _, tid)| tid).collect()
}
