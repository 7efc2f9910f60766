//! Calling a function, in two parts: what can be done before all threads are stopped, and the call.

use std::time::Duration;

use crate::call::call_thread::{CallState, CallThread, Result};
use crate::call::remote_call::RemoteCall;
use crate::call::remote_call_error::RemoteCallError;
use crate::call::requests::{RequestHandler, Requests};
use crate::call::resumed_call::resumed_call;
use crate::call::signal_frame::SignalFrame;
use crate::memory::access::Memory;
use crate::sys::address::TargetAddress;
use crate::sys::ptrace;
use crate::sys::restart::restart_ready_without_kernel;
use crate::trace::tracees::OPTIONS;

/// A call that can begin at once: the registers of its thread are saved, and its frame is written.
pub(super) struct PreparedCall {
    pub(super) state: CallState,
    pub(super) frame: SignalFrame,
    stack_top: TargetAddress,
    restorer: TargetAddress,
    only_loader_calls: bool,
}

impl PreparedCall {
    /// Whether it serves for this call. The function and its arguments do not matter.
    pub(super) fn is_for(&self, tid: i32, call: &RemoteCall) -> bool {
        self.state.tid == tid
            && self.stack_top == call.stack_top
            && self.restorer == call.restorer
            && self.only_loader_calls == call.only_loader_calls
    }

    /// Undoes what was prepared. The frame may stay: the stack belongs to the call alone.
    pub(super) fn forget(self) {
        let tid = self.state.tid;
        if self.state.is_filter_suspended
            && let Err(error) = ptrace::set_options(tid, OPTIONS)
        {
            // Only a thread that has been killed answers so.
            tracing::debug!(tid, %error, "a filter was not put in force again");
        }
    }
}

impl CallThread<'_> {
    /// The frame from which the thread would restore itself.
    pub(super) fn frame(&self, top: TargetAddress, restorer: TargetAddress) -> Result<SignalFrame> {
        let saved = &self.state.saved;
        let call = resumed_call(self.process(), self.tid, &saved.general);
        let registers = restart_ready_without_kernel(&saved.general, call);
        let frame = SignalFrame::new(
            top,
            restorer,
            &registers,
            saved.signal_mask,
            &saved.extended_state,
        );
        frame.ok_or(RemoteCallError::ExtendedState {
            tid: self.tid,
            length: saved.extended_state.len(),
        })
    }

    /// Does everything up to the moment in which the thread is set off.
    pub(super) fn prepare(mut self, call: &RemoteCall) -> Result<PreparedCall> {
        self.suspend_filter(call.only_loader_calls)?;
        let frame = match self.write_frame(call) {
            Ok(frame) => frame,
            Err(error) => {
                self.resume_filter()?;
                return Err(error);
            }
        };
        self.state.frame_at_return = Some(frame.stack_pointer_at_return());
        Ok(PreparedCall {
            state: self.state,
            frame,
            stack_top: call.stack_top,
            restorer: call.restorer,
            only_loader_calls: call.only_loader_calls,
        })
    }

    fn write_frame(&self, call: &RemoteCall) -> Result<SignalFrame> {
        let frame = self.frame(call.stack_top, call.restorer)?;
        Memory::new(self.process()).write(frame.address, &frame.bytes)?;
        Ok(frame)
    }

    /// Makes a prepared call. If the function returns, what is left to be restored is put into
    /// `returned`.
    pub(super) fn call(
        mut self,
        frame: &SignalFrame,
        call: &RemoteCall,
        requests: Option<&mut Requests<'_>>,
        returned: &mut Option<CallState>,
    ) -> Result<u64> {
        let mut handler = RequestHandler::of(requests);
        let begun = self.set_off(call.entry, frame.address, call.arguments, 0);
        let has_begun = begun.is_ok();
        let result = begun.and_then(|()| self.run_to_return(frame, call.timeout, &mut handler));
        let value = match result {
            Ok(value) => value,
            Err(error @ RemoteCallError::System { .. }) if has_begun => {
                return self.detach_in_call(error);
            }
            failure => return self.finish(failure),
        };
        *returned = Some(self.restore_later());
        handler.first_failure()?;
        Ok(value)
    }

    fn run_to_return(
        &mut self,
        frame: &SignalFrame,
        timeout: Duration,
        handler: &mut RequestHandler<'_, '_>,
    ) -> Result<u64> {
        let deadline = self.process().patience(timeout);
        loop {
            // The thread was set off in user mode, so the first stop is at an entry, the next one
            // at an exit, and so on.
            self.run_to_system_call(&deadline, handler)?;
            let now = self.check("read the registers of", ptrace::registers(self.tid))?;
            let returns = now.orig_rax == libc::SYS_rt_sigreturn as u64
                && now.stack_pointer() == frame.stack_pointer_at_return();
            if returns {
                return Ok(now.rbx);
            }
            handler.serve_stopped(&now);
            self.run_to_system_call(&deadline, handler)?;
        }
    }
}
