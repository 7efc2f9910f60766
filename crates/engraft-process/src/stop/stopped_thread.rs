//! A stopped thread, and what can be done in it.

use std::ffi::CStr;

use crate::call::remote_call::RemoteCall;
use crate::call::remote_call_error::RemoteCallError;
use crate::call::requests::Requests;
use crate::memory::protected::ProtectedWriter;
use crate::process::handle::Process;
use crate::stop::traced_process::TracedProcess;
use crate::sys::ptrace;
use crate::sys::registers::Registers;
use crate::trace::stop_error::StopError;
use crate::trace::thread_state::ThreadState;

/// A stopped thread.
pub struct StoppedThread<'s> {
    traced: &'s mut TracedProcess,
    state: ThreadState,
}

impl<'s> StoppedThread<'s> {
    /// `None` if the thread is not stopped.
    pub(super) fn of(traced: &'s mut TracedProcess, tid: i32) -> Option<Self> {
        let state = traced.tracees.threads().state(traced.pid(), tid)?;
        Some(Self { traced, state })
    }

    /// The process to which the thread belongs.
    pub fn process(&self) -> &Process {
        self.traced.process()
    }

    /// What is known of the thread.
    pub fn state(&self) -> &ThreadState {
        &self.state
    }

    /// The thread's general registers.
    pub fn registers(&self) -> &Registers {
        &self.state.registers
    }

    /// The thread's x87, SSE, AVX, ... state, in the XSAVE format.
    ///
    /// # Errors
    /// [`StopError::System`], also if the thread has ended.
    pub fn extended_state(&self) -> Result<Vec<u8>, StopError> {
        // After a call the thread has the call's state until it is restored.
        if let Some(returned) = self.traced.calls.returned()
            && returned.tid() == self.state.tid
        {
            return Ok(returned.extended_state().to_vec());
        }
        let state = ptrace::extended_state(self.state.tid);
        let tracees = &self.traced.tracees;
        state.map_err(|error| tracees.system("read the extended state", error))
    }

    /// Replaces the thread's general registers. The thread continues with these when it is resumed.
    ///
    /// # Errors
    /// [`StopError::Gone`], or [`StopError::System`], also if the thread has ended.
    pub fn set_registers(&mut self, registers: &Registers) -> Result<(), StopError> {
        let TracedProcess { tracees, calls, .. } = &mut *self.traced;
        calls.finish(tracees)?;
        calls.forget_prepared_in(self.state.tid);
        let result = ptrace::set_registers(self.state.tid, registers);
        result.map_err(|error| tracees.system("set the registers", error))?;
        let threads = tracees.threads_mut();
        threads.set_registers(self.state.tid, registers);
        self.state.registers = *registers;
        Ok(())
    }

    /// A writer into pages that the program may only read. It can be used while this thread is busy
    /// with a call.
    pub fn protected_writer(&self) -> ProtectedWriter {
        self.traced.protected_writer(self.state.tid)
    }

    /// Calls a function in this thread, and returns its result. The threads that are stopped stay
    /// stopped meanwhile. Whether the call succeeds or fails, the thread is as it was before.
    /// Requests ([`REQUEST_LENGTH`](crate::REQUEST_LENGTH)) are ignored.
    ///
    /// # Errors
    /// Any [`RemoteCallError`]. After `Gone` and `ThreadEnded` there is no thread any more.
    pub fn call(&mut self, call: &RemoteCall) -> Result<u64, RemoteCallError> {
        let TracedProcess { tracees, calls, .. } = &mut *self.traced;
        calls.call(tracees, self.state.tid, call, None)
    }

    /// Calls a function that may make requests ([`REQUEST_LENGTH`](crate::REQUEST_LENGTH)), which
    /// are served while the function waits for the answer.
    ///
    /// # Errors
    /// As [`Self::call`]. If serving a request fails, the function continues and finds its request
    /// not done, and further requests are served: these may undo what was begun. When the function
    /// has returned, the first failure is the result.
    pub fn call_serving(
        &mut self,
        call: &RemoteCall,
        requests: &mut Requests<'_>,
    ) -> Result<u64, RemoteCallError> {
        let TracedProcess { tracees, calls, .. } = &mut *self.traced;
        calls.call(tracees, self.state.tid, call, Some(requests))
    }

    /// Makes a system call in this thread.
    ///
    /// # Errors
    /// [`RemoteCallError::SystemCall`] if the call was made and failed; any other
    /// [`RemoteCallError`] if it could not be made.
    pub fn system_call(
        &mut self,
        number: i64,
        arguments: [u64; 6],
    ) -> Result<u64, RemoteCallError> {
        let TracedProcess { tracees, calls, .. } = &mut *self.traced;
        calls.system_call(tracees, self.state.tid, number, arguments, None)
    }

    /// Makes a system call that reads a text of at most 127 bytes, whose address takes the place of
    /// the first argument.
    ///
    /// # Errors
    /// As [`Self::system_call`]; [`RemoteCallError::NoStack`] if there is no place for the text.
    pub fn system_call_with_text(
        &mut self,
        number: i64,
        text: &CStr,
        arguments: [u64; 6],
    ) -> Result<u64, RemoteCallError> {
        let TracedProcess { tracees, calls, .. } = &mut *self.traced;
        calls.system_call(tracees, self.state.tid, number, arguments, Some(text))
    }
}
