//! A thread that stands still: what is known of it, and what can be done in it.

use std::ffi::CStr;

use crate::call::remote::RemoteCall;
use crate::call::remote_error::RemoteCallError;
use crate::call::remote_thread::Caller;
use crate::call::requests::Requests;
use crate::memory::protected::ProtectedWriter;
use crate::process::handle::Process;
use crate::sys::ptrace;
use crate::sys::registers::Registers;
use crate::trace::stop_error::StopError;
use crate::trace::tracees::{Condition, Tracee, Tracees};

/// A thread that stands still.
#[derive(Clone, Copy, Debug)]
pub struct ThreadState {
    /// Its number.
    pub tid: i32,
    /// Its registers.
    pub registers: Registers,
    /// It was on a processor, or waited for one, when the stop began.
    pub was_running: bool,
    /// It shares the process, but never runs code of the program (an io_uring worker).
    pub is_kernel_worker: bool,
    /// It is the first thread of the process.
    pub is_first: bool,
    /// The process is stopped by SIGSTOP or the like, and stays so when we let it go.
    pub is_group_stopped: bool,
}

/// One thread of a stopped process, to be worked with.
pub struct StoppedThread<'s> {
    tracees: &'s mut Tracees,
    state: ThreadState,
}

impl Tracees {
    /// Those of the threads that stand still.
    pub(crate) fn states(&self) -> impl Iterator<Item = ThreadState> {
        self.states_of(|_| true)
    }

    /// Those of them that are wanted.
    pub(crate) fn states_of(
        &self,
        wanted: impl Fn(i32) -> bool,
    ) -> impl Iterator<Item = ThreadState> {
        let pid = self.pid();
        let threads = self.threads.iter().filter(move |(tid, _)| wanted(**tid));
        threads.filter_map(move |(tid, tracee)| state(pid, *tid, tracee))
    }

    /// One of them, to be worked with.
    pub(crate) fn stopped_thread(&mut self, tid: i32) -> Option<StoppedThread<'_>> {
        let state = state(self.pid(), tid, self.threads.get(&tid)?)?;
        Some(StoppedThread {
            tracees: self,
            state,
        })
    }
}

fn state(pid: i32, tid: i32, tracee: &Tracee) -> Option<ThreadState> {
    let Condition::Stopped { group } = tracee.condition else {
        return None;
    };
    Some(ThreadState {
        tid,
        registers: tracee.registers,
        was_running: tracee.was_running,
        is_kernel_worker: tracee.is_kernel_worker,
        is_first: tid == pid,
        is_group_stopped: group,
    })
}

impl StoppedThread<'_> {
    /// The process that it belongs to.
    pub fn process(&self) -> &Process {
        &self.tracees.process
    }

    /// Its state.
    pub fn state(&self) -> &ThreadState {
        &self.state
    }

    /// Its general registers.
    pub fn registers(&self) -> &Registers {
        &self.state.registers
    }

    /// Its x87, SSE, AVX, ... state, in the XSAVE format.
    pub fn extended_state(&self) -> Result<Vec<u8>, StopError> {
        // After a call it holds the call's until it is restored.
        if let Some(kept) = &self.tracees.returned
            && kept.tid == self.state.tid
        {
            return Ok(kept.extended_state.clone());
        }
        let state = ptrace::extended_state(self.state.tid);
        state.map_err(|error| self.tracees.system("read the extended state", error))
    }

    /// Replaces its general registers. It goes on with these when it is let go.
    pub fn set_registers(&mut self, registers: &Registers) -> Result<(), StopError> {
        self.tracees.finish_call()?;
        self.tracees.forget_prepared(self.state.tid);
        let result = ptrace::set_registers(self.state.tid, registers);
        result.map_err(|error| self.tracees.system("set the registers", error))?;
        if let Some(tracee) = self.tracees.threads.get_mut(&self.state.tid) {
            tracee.registers = *registers;
        }
        self.state.registers = *registers;
        Ok(())
    }

    /// What writes into pages that the program may only read, also while this thread is busy with a
    /// call.
    pub fn protected_writer(&self) -> ProtectedWriter {
        ProtectedWriter::new(self.process(), self.state.tid, &self.tracees.protected)
    }

    /// Calls a function in this thread; the result is what it returns. The threads that are stopped stand
    /// still meanwhile. Whatever comes of it, the thread is then as it was before. Requests
    /// ([`REQUEST_LENGTH`](crate::REQUEST_LENGTH)) are ignored.
    pub fn call(&mut self, call: &RemoteCall) -> Result<u64, RemoteCallError> {
        self.tracees.call(self.state.tid, call, None)
    }

    /// Calls a function that may make requests ([`REQUEST_LENGTH`](crate::REQUEST_LENGTH)), which are served while it
    /// waits for the answer.
    ///
    /// If serving fails, the function goes on, which finds its request not done, and further requests are
    /// served: they may be what puts things right again. When it has returned, the first failure is the
    /// result.
    pub fn call_serving(
        &mut self,
        call: &RemoteCall,
        requests: &mut Requests<'_>,
    ) -> Result<u64, RemoteCallError> {
        self.tracees.call(self.state.tid, call, Some(requests))
    }

    /// Makes a system call in this thread; an error number is [`RemoteCallError::SystemCall`].
    pub fn system_call(
        &mut self,
        number: i64,
        arguments: [u64; 6],
    ) -> Result<u64, RemoteCallError> {
        Caller::new(self.tracees, self.state.tid)?.system_call(number, arguments, None)
    }

    /// Makes a system call that reads a text of at most 127 bytes, whose address takes the place of the first argument.
    pub fn system_call_with_text(
        &mut self,
        number: i64,
        text: &CStr,
        arguments: [u64; 6],
    ) -> Result<u64, RemoteCallError> {
        Caller::new(self.tracees, self.state.tid)?.system_call(number, arguments, Some(text))
    }
}
