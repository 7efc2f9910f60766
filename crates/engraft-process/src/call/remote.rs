//! Running code in a stopped thread, in such a way that it survives our death.
//!
//! # How a call goes
//! 1. A signal frame with the thread's state goes onto a stack ([`crate::call::signal_frame`]).
//! 2. All registers are set in one step: the call begins. If we die from here on, the thread
//!    finishes the call, returns into the restorer, and `rt_sigreturn` restores it.
//! 3. Signals are blocked. The synchronous ones are not: a blocked SIGSEGV that happens anyway makes the
//!    kernel reset the program's handler.
//! 4. The thread runs until it is about to enter `rt_sigreturn`. What follows may be left until others have
//!    been let go.
//! 5. It is brought to an ordinary stop before it executes any instruction of the program, and gets back
//!    exactly the registers it was stopped with: the kernel's restart logic is then still to come, as if
//!    nothing had happened ([`crate::call::way_back`]).
//!
//! # Requests
//! Code that runs in a call may ask us to do something ([`Requests`]). It cannot tell whether its
//! tracer still lives and holds the other threads, so what needs that it must leave to the tracer.
//!
//! # seccomp
//! The kernel evaluates filters after our stop at the entry of a call, also for the number -1. A filter is suspended
//! for the time of a call if we may, but only for as long as we live. So a thread that we hold stands at no moment
//! before a call that is fatal under its filter without us.

use std::ffi::CStr;
use std::time::Duration;

use engraft_machine::RED_ZONE;

use crate::call::gadgets::Gadgets;
use crate::call::prepared::Prepared;
use crate::call::remote_error::RemoteCallError;
use crate::call::remote_thread::{Caller, Result};
use crate::call::requests::{Requests, Service};
use crate::call::signal_frame::{Saved, SignalFrame};
use crate::memory::access::MemoryError;
use crate::sys::address::TargetAddress;
use crate::sys::ptrace;
use crate::sys::restart::restart_ready_without_kernel;
use crate::trace::tracees::OPTIONS;

/// A function to be called in a stopped thread.
#[derive(Clone, Copy, Debug)]
pub struct RemoteCall {
    /// The function; a plain SysV function of up to six integer arguments.
    pub entry: TargetAddress,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// The end of the stack it runs on. About 4 KiB below are taken for the frame (12 KiB where AMX is in
    /// use); the rest is the function's. Nothing there is restored.
    pub stack_top: TargetAddress,
    /// Where the function returns to: code that does `mov %rax, %rbx; mov $15, %eax; syscall`. The
    /// result is read from `rbx`, which nobody needs any more at that point.
    pub restorer: TargetAddress,
    /// How long it may take.
    pub timeout: Duration,
    /// Whether it makes no system calls but those of every dynamic loader: then it may run under a seccomp
    /// filter that we cannot suspend.
    pub only_loader_calls: bool,
}

/// System calls that every dynamic loader makes: a filter that forbids them cannot be in place.
const LOADER_CALLS: [i64; 8] = [
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_close,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_fstat,
];
const SECCOMP_STRICT: u32 = 1;
const MAX_ERRNO: i64 = 4095;
/// How long a remote system call may take: long enough for a thread that hardly gets a processor.
const SYSTEM_CALL_TIMEOUT: Duration = Duration::from_secs(30);
impl Caller<'_> {
    /// Suspends the filter, if we may (CAP_SYS_ADMIN, and a kernel built with CHECKPOINT_RESTORE); otherwise
    /// looks whether there is one. `allowed` says whether the call is harmless under any filter.
    fn suspend_filter(&mut self, allowed: bool) -> Result<()> {
        // First this, which does no harm where there is no filter: looking takes ten times as long, and
        // threads may be waiting.
        self.kept.suspended =
            ptrace::set_options(self.tid, OPTIONS | libc::PTRACE_O_SUSPEND_SECCOMP).is_ok();
        if self.kept.suspended {
            return Ok(());
        }
        let status = self.tracees.process.task(self.tid).status();
        let status = status.map_err(|source| RemoteCallError::System {
            tid: self.tid,
            operation: "read the status of",
            source,
        })?;
        let mode = status.map_or(0, |status| status.seccomp);
        if mode == 0 || (allowed && mode != SECCOMP_STRICT) {
            return Ok(());
        }
        Err(RemoteCallError::Seccomp { tid: self.tid })
    }

    fn frame(&self, top: TargetAddress, restorer: TargetAddress) -> Result<SignalFrame> {
        let registers = &self.kept.registers;
        let call = self.tracees.process.resumed_call(self.tid, registers);
        let saved = Saved {
            registers: &restart_ready_without_kernel(registers, call),
            signal_mask: self.kept.signal_mask,
            extended_state: &self.kept.extended_state,
        };
        SignalFrame::new(top, restorer, &saved).ok_or(RemoteCallError::ExtendedState {
            tid: self.tid,
            length: self.kept.extended_state.len(),
        })
    }

    /// Everything up to the moment at which the thread is set off. Its outcome may be left lying: the
    /// stack is nobody's but the call's.
    pub(crate) fn prepare(mut self, call: &RemoteCall) -> Result<Prepared> {
        self.suspend_filter(call.only_loader_calls)?;
        let frame = self.write_frame(call);
        if frame.is_err() && self.kept.suspended {
            self.check("set the options of", ptrace::set_options(self.tid, OPTIONS))?;
        }
        let frame = frame?;
        self.kept.frame_at_return = Some(frame.stack_pointer_at_return());
        Ok(Prepared::new(self.kept, frame, call))
    }

    fn write_frame(&self, call: &RemoteCall) -> Result<SignalFrame> {
        let frame = self.frame(call.stack_top, call.restorer)?;
        let memory = self.tracees.process.memory();
        memory.write(frame.address, &frame.bytes)?;
        Ok(frame)
    }

    /// Calls a function, for which everything has been prepared.
    pub(crate) fn call(
        mut self,
        frame: &SignalFrame,
        call: &RemoteCall,
        requests: Option<&mut Requests<'_>>,
    ) -> Result<u64> {
        let mut service = Service::of(requests);
        let begun = self.set_off(call.entry, frame.address, call.arguments, 0);
        let has_begun = begun.is_ok();
        let result = begun.and_then(|()| self.run_to_return(frame, call.timeout, &mut service));
        let value = match result {
            Ok(value) => value,
            Err(error @ RemoteCallError::System { .. }) if has_begun => {
                return self.leave_alone(error);
            }
            failure => return self.finish(failure),
        };
        self.leave();
        service.outcome()?;
        Ok(value)
    }

    fn run_to_return(
        &mut self,
        frame: &SignalFrame,
        timeout: Duration,
        service: &mut Service<'_, '_>,
    ) -> Result<u64> {
        let deadline = self.tracees.process.patience(timeout);
        loop {
            // The thread was set off in user mode, so the first stop is an entry, and then they take turns.
            self.run_to_system_call(&deadline, service)?;
            let now = self.check("read the registers of", ptrace::registers(self.tid))?;
            let returns = now.orig_rax == libc::SYS_rt_sigreturn as u64
                && now.stack_pointer() == frame.stack_pointer_at_return();
            if returns {
                return Ok(now.rbx);
            }
            service.serve_stopped(&now);
            self.run_to_system_call(&deadline, service)?;
        }
    }

    /// Makes a system call by borrowed instructions, on the thread's own stack.
    ///
    /// Where the target has no restorer, or the stack has no room, there is no frame: then a thread
    /// whose tracer is killed during these few microseconds would go on at the borrowed instruction.
    ///
    /// With a `text`, its address is the first argument; it lies in the frame.
    pub(crate) fn system_call(
        mut self,
        number: i64,
        mut arguments: [u64; 6],
        text: Option<&CStr>,
    ) -> Result<u64> {
        self.suspend_filter(LOADER_CALLS.contains(&number))?;
        let process = self.tracees.process.clone();
        let gadgets = *process
            .shared
            .gadgets
            .get_or_init(|| Gadgets::find(&process));
        let instruction = gadgets.system_call(&process);
        let pid = process.pid();
        // Nothing is found either in a process that has just been killed.
        let (entry, returns) = instruction.ok_or_else(|| match process.is_alive() {
            true => RemoteCallError::NoInstruction { pid },
            false => RemoteCallError::Gone { pid },
        })?;
        let restorer = gadgets.restorer(&process).filter(|_| returns);
        let borrowed = match restorer {
            Some(restorer) => self.borrow_stack(restorer, text)?,
            None => None,
        };
        if text.is_some() {
            let at = borrowed.as_ref().and_then(|borrowed| borrowed.text);
            let [first, ..] = &mut arguments;
            *first = at.ok_or(RemoteCallError::NoStack { tid: self.tid })?.get();
        }
        self.kept.frame_at_return = borrowed
            .as_ref()
            .map(|borrowed| borrowed.frame.stack_pointer_at_return());
        let stack = borrowed
            .as_ref()
            .map_or(self.kept.registers.rsp.into(), |b| b.frame.address);
        let begun = self.set_off(entry, stack, arguments, number as u64);
        let result = begun.and_then(|()| self.run_system_call());
        let result = self.finish(result);
        if let Some(Borrowed { frame, before, .. }) = borrowed {
            // Tried twice, as restoring a thread is: the call has been made, and must not seem to have failed.
            let memory = process.memory();
            let put_back = memory.write(frame.address, &before);
            put_back.or_else(|_| memory.write(frame.address, &before))?;
        }
        decode_result(number, result?)
    }

    /// Writes a frame below the thread's own stack, if that can be done. The stack of a coroutine may
    /// be a small piece of something else, so what was there is put back.
    fn borrow_stack(
        &self,
        restorer: TargetAddress,
        text: Option<&CStr>,
    ) -> Result<Option<Borrowed>> {
        let memory = self.tracees.process.memory();
        let mut frame = self.frame(self.kept.registers.stack_pointer() - RED_ZONE, restorer)?;
        let text = text.and_then(|text| frame.carry(text.to_bytes_with_nul()));
        let length = frame.bytes.len() as u64;
        let before = match memory.read_bytes(frame.address, length, length) {
            Ok(before) => before,
            Err(MemoryError::Unmapped { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match memory.write(frame.address, &frame.bytes) {
            Ok(()) => Ok(Some(Borrowed {
                frame,
                before,
                text,
            })),
            Err(MemoryError::Unmapped { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Through the entry and the exit of one system call.
    fn run_system_call(&mut self) -> Result<u64> {
        let deadline = self.tracees.process.patience(SYSTEM_CALL_TIMEOUT);
        let mut service = Service::of(None);
        self.run_to_system_call(&deadline, &mut service)?;
        self.run_to_system_call(&deadline, &mut service)?;
        let registers = self.check("read the registers of", ptrace::registers(self.tid))?;
        Ok(registers.rax)
    }
}

struct Borrowed {
    frame: SignalFrame,
    before: Vec<u8>,
    /// Where the text is that the frame carries.
    text: Option<TargetAddress>,
}

fn decode_result(number: i64, result: u64) -> Result<u64> {
    let signed = result as i64;
    match i32::try_from(signed.wrapping_neg()) {
        Ok(errno) if (-MAX_ERRNO..0).contains(&signed) => {
            Err(RemoteCallError::SystemCall { number, errno })
        }
        _ => Ok(result),
    }
}
