//! Running code in a stopped thread, in such a way that it survives our death.
//!
//! # How a call goes
//! 1. A signal frame with the thread's state goes onto a stack ([`crate::frame`]).
//! 2. All registers are set in one step: the call begins. If we die from here on, the thread
//!    finishes the call, returns into the restorer, and `rt_sigreturn` restores it.
//! 3. Signals are blocked. The synchronous ones are not: a blocked SIGSEGV that happens anyway makes the
//!    kernel reset the program's handler.
//! 4. The thread runs until it is about to enter `rt_sigreturn`. There it is restored from outside, and
//!    the system call is skipped (number -1): executing it would make the kernel forget how to
//!    resume an interrupted nanosleep, poll or futex.
//! 5. It is brought to an ordinary stop before it executes any instruction, and gets back exactly the
//!    registers it was stopped with: the kernel's restart logic is then still to come, as if
//!    nothing had happened.
//!
//! # seccomp
//! Filters are evaluated after us, also for the number -1. In a thread with a filter that we cannot
//! suspend, `rt_sigreturn` is executed, and a thread that sleeps in nanosleep and the like is refused.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

use crate::address::TargetAddress;
use crate::deadline::Deadline;
use crate::frame::{Saved, SignalFrame};
use crate::gadgets::Gadgets;
use crate::memory::MemoryError;
use crate::registers::Registers;
use crate::restart::{
    has_restart_block, restart_ready, restart_ready_without_kernel, will_restart,
};
use crate::sys::alarm::Alarm;
use crate::sys::ptrace::{self, Go};
use crate::tracees::{Condition, Event, OPTIONS, Tracees, Waited, wait};

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
}

/// Why a remote call failed. The thread is as it was before, except after `Gone` and `ThreadEnded`.
#[derive(Debug, thiserror::Error)]
pub enum RemoteCallError {
    /// The process has ended.
    #[error("process {pid} has ended")]
    Gone {
        /// The process.
        pid: i32,
    },
    /// The thread has ended.
    #[error("thread {tid} has ended")]
    ThreadEnded {
        /// The thread.
        tid: i32,
    },
    /// The system call was carried out, and failed.
    #[error("system call {number} in the target failed: {}", io::Error::from_raw_os_error(*errno))]
    SystemCall {
        /// Which.
        number: i64,
        /// Its error number.
        errno: i32,
    },
    /// The code that was called crashed.
    #[error(
        "the code called in thread {tid} crashed at {instruction_pointer} with signal {signal}"
    )]
    Crashed {
        /// The thread.
        tid: i32,
        /// The signal.
        signal: i32,
        /// Where.
        instruction_pointer: TargetAddress,
    },
    /// The code that was called did not return in time.
    #[error("the code called in thread {tid} did not return within {timeout:?}")]
    TimedOut {
        /// The thread.
        tid: i32,
        /// How long we waited.
        timeout: Duration,
    },
    /// A thread of the kernel that shares the process; it runs no code of the program.
    #[error("thread {tid} is a worker of the kernel and runs no code of the program")]
    KernelWorker {
        /// The thread.
        tid: i32,
    },
    /// The thread's seccomp filter may forbid the call, and we may not suspend it.
    #[error(
        "thread {tid} has a seccomp filter that may end the process at this call; use another \
         thread, or CAP_SYS_ADMIN to suspend the filter"
    )]
    Seccomp {
        /// The thread.
        tid: i32,
    },
    /// The thread has a shadow stack, which would have to be prepared too.
    #[error("thread {tid} has a shadow stack (CET), which is not supported")]
    ShadowStack {
        /// The thread.
        tid: i32,
    },
    /// The interrupted system call was made in another way than by `syscall`.
    #[error("thread {tid} is in a system call that was not made by a syscall instruction")]
    UnknownEntry {
        /// The thread.
        tid: i32,
    },
    /// There is no `syscall` instruction to borrow.
    #[error("no syscall instruction was found in the code of process {pid}")]
    NoInstruction {
        /// The process.
        pid: i32,
    },
    /// The extended state has an unknown form.
    #[error("the extended processor state of thread {tid} has an unknown form ({length} bytes)")]
    ExtendedState {
        /// The thread.
        tid: i32,
        /// How long it is.
        length: usize,
    },
    /// The frame could not be written.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Anything else the system had to say.
    #[error("failed to {operation} thread {tid}: {source}")]
    System {
        /// The thread.
        tid: i32,
        /// What was tried.
        operation: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl RemoteCallError {
    /// The error number, if a system call was carried out and failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::SystemCall { errno, .. } => Some(*errno),
            _ => None,
        }
    }
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
/// SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS: raised by instructions.
const SYNCHRONOUS: u64 = 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 30;
/// Direction flag and trap flag of `eflags`.
const DIRECTION_AND_TRAP: u64 = 1 << 10 | 1 << 8;
/// The ABI lets a function use this much below the stack pointer without moving it.
const RED_ZONE: u64 = 128;
const SECCOMP_STRICT: u32 = 1;
const MAX_ERRNO: i64 = 4095;
/// How long a remote system call may take.
const SYSTEM_CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the way back may take; it runs no code of the target.
const RETURN_TIMEOUT: Duration = Duration::from_secs(1);

/// One thread borrowed for a call.
pub(crate) struct Caller<'t> {
    tracees: &'t mut Tracees,
    tid: i32,
    /// As it was stopped.
    registers: Registers,
    signal_mask: u64,
    extended_state: Vec<u8>,
    filtered: bool,
    suspended: bool,
}

type Result<T> = std::result::Result<T, RemoteCallError>;

impl<'t> Caller<'t> {
    /// Saves the state of a stopped thread.
    pub(crate) fn new(tracees: &'t mut Tracees, tid: i32) -> Result<Self> {
        let tracee = tracees.threads.get(&tid).copied();
        let tracee = tracee.ok_or(RemoteCallError::ThreadEnded { tid })?;
        if tracee.is_kernel_worker {
            return Err(RemoteCallError::KernelWorker { tid });
        }
        let mut caller = Self {
            tracees,
            tid,
            registers: tracee.registers,
            signal_mask: 0,
            extended_state: Vec::new(),
            filtered: false,
            suspended: false,
        };
        caller.refuse_unknown_entry()?;
        if ptrace::has_shadow_stack(tid) {
            return Err(RemoteCallError::ShadowStack { tid });
        }
        caller.signal_mask = caller.check("read the signal mask of", ptrace::signal_mask(tid))?;
        let state = ptrace::extended_state(tid);
        caller.extended_state = caller.check("read the extended state of", state)?;
        Ok(caller)
    }

    /// The kernel steps back over two bytes to restart a call; with us, the thread would do it by
    /// itself, and must find the instruction there that it came by.
    fn refuse_unknown_entry(&self) -> Result<()> {
        if !will_restart(&self.registers) {
            return Ok(());
        }
        let at = self.registers.instruction_pointer() - 2;
        let instruction: [u8; 2] = self.tracees.process.memory().read_array(at)?;
        if instruction == [0x0f, 0x05] {
            return Ok(());
        }
        Err(RemoteCallError::UnknownEntry { tid: self.tid })
    }

    fn check<T>(
        &self,
        operation: &'static str,
        result: std::result::Result<T, Errno>,
    ) -> Result<T> {
        result.map_err(|error| self.error(operation, error))
    }

    fn error(&self, operation: &'static str, error: Errno) -> RemoteCallError {
        let pid = self.tracees.pid();
        match error {
            Errno::SRCH if !self.tracees.process.is_alive() => RemoteCallError::Gone { pid },
            Errno::SRCH => RemoteCallError::ThreadEnded { tid: self.tid },
            error => RemoteCallError::System {
                tid: self.tid,
                operation,
                source: error.into(),
            },
        }
    }

    /// Looks for a filter, and suspends it if we may (CAP_SYS_ADMIN, and a kernel built with
    /// CHECKPOINT_RESTORE). `allowed` says whether the call is harmless under any filter.
    fn suspend_filter(&mut self, allowed: bool) -> Result<()> {
        let status = self.tracees.process.task(self.tid).status();
        let status = status.map_err(|source| RemoteCallError::System {
            tid: self.tid,
            operation: "read the status of",
            source,
        })?;
        let mode = status.map_or(0, |status| status.seccomp);
        if mode == 0 {
            return Ok(());
        }
        self.filtered = true;
        self.suspended =
            ptrace::set_options(self.tid, OPTIONS | libc::PTRACE_O_SUSPEND_SECCOMP).is_ok();
        if self.suspended || (allowed && mode != SECCOMP_STRICT) {
            return Ok(());
        }
        Err(RemoteCallError::Seccomp { tid: self.tid })
    }

    fn frame(&self, top: TargetAddress, restorer: TargetAddress) -> Result<SignalFrame> {
        let saved = Saved {
            registers: &restart_ready_without_kernel(&self.registers),
            signal_mask: self.signal_mask,
            extended_state: &self.extended_state,
        };
        SignalFrame::new(top, restorer, &saved).ok_or(RemoteCallError::ExtendedState {
            tid: self.tid,
            length: self.extended_state.len(),
        })
    }

    /// Sets the thread off: the point from which on it would restore itself.
    fn set_off(
        &mut self,
        entry: TargetAddress,
        stack: TargetAddress,
        arguments: [u64; 6],
        rax: u64,
    ) -> Result<()> {
        let [rdi, rsi, rdx, fourth, r8, r9] = arguments;
        let registers = Registers {
            rip: entry.get(),
            rsp: stack.get(),
            rdi,
            rsi,
            rdx,
            // The fourth argument is in rcx for functions and in r10 for system calls.
            rcx: fourth,
            r10: fourth,
            r8,
            r9,
            rax,
            // In no system call: the kernel restarts nothing.
            orig_rax: u64::MAX,
            eflags: self.registers.eflags & !DIRECTION_AND_TRAP,
            ..self.registers
        };
        self.check(
            "set the registers of",
            ptrace::set_registers(self.tid, &registers),
        )?;
        if let Some(tracee) = self.tracees.threads.get_mut(&self.tid) {
            tracee.condition = Condition::Running;
        }
        let mask = !SYNCHRONOUS | self.signal_mask;
        self.check(
            "block the signals of",
            ptrace::set_signal_mask(self.tid, mask),
        )
    }

    /// Calls a function.
    pub(crate) fn call(mut self, call: &RemoteCall) -> Result<u64> {
        let alarm = Alarm::start();
        let _alarm = self.check("start a timer for", alarm)?;
        self.suspend_filter(true)?;
        if self.filtered && !self.suspended && has_restart_block(&self.registers) {
            return Err(RemoteCallError::Seccomp { tid: self.tid });
        }
        let frame = self.frame(call.stack_top, call.restorer)?;
        self.tracees
            .process
            .memory()
            .write(frame.address, &frame.bytes)?;
        self.set_off(call.entry, frame.address, call.arguments, 0)?;
        let result = self.run_to_return(&frame, call.timeout);
        self.finish(result)
    }

    fn run_to_return(&mut self, frame: &SignalFrame, timeout: Duration) -> Result<u64> {
        let deadline = Deadline::after(timeout);
        loop {
            self.run_to_system_call(&deadline)?;
            let now = self.check("read the registers of", ptrace::registers(self.tid))?;
            let returns = now.orig_rax == libc::SYS_rt_sigreturn as u64
                && now.stack_pointer() == frame.stack_pointer_at_return();
            if !returns {
                continue;
            }
            if self.filtered && !self.suspended {
                // A filter would see the number -1 and may end the process for it.
                self.run_to_system_call(&deadline)?;
            }
            return Ok(now.rbx);
        }
    }

    /// Lets the thread go on until the next entry or exit of a system call.
    fn run_to_system_call(&mut self, deadline: &Deadline) -> Result<()> {
        let mut signal = 0;
        loop {
            let go = ptrace::go(self.tid, Go::ToSystemCall, signal);
            self.check("continue", go)?;
            signal = 0;
            match self.await_event(deadline)? {
                Event::SystemCall => return Ok(()),
                Event::Signal(number) => signal = self.judge_signal(number)?,
                Event::Clone | Event::Exec | Event::Stop { .. } => {}
                Event::Ended => return Err(self.ended()),
            }
        }
    }

    /// A signal has come through: either an instruction of the call raised it, and the call is
    /// over, or it was sent, and is delivered.
    fn judge_signal(&self, signal: i32) -> Result<i32> {
        let bit = u32::try_from(signal - 1)
            .ok()
            .and_then(|shift| 1u64.checked_shl(shift));
        let synchronous = bit.unwrap_or(0) & SYNCHRONOUS != 0;
        let code = self.check("ask for the signal of", ptrace::signal_code(self.tid))?;
        // Positive codes come from the kernel alone.
        if !synchronous || code <= 0 {
            return Ok(signal);
        }
        let registers = self.check("read the registers of", ptrace::registers(self.tid))?;
        Err(RemoteCallError::Crashed {
            tid: self.tid,
            signal,
            instruction_pointer: registers.instruction_pointer(),
        })
    }

    fn ended(&mut self) -> RemoteCallError {
        self.tracees.threads.remove(&self.tid);
        // The last of them: the pidfd may lag behind by the time the kernel needs to tidy up.
        let pid = self.tracees.pid();
        if self.tracees.threads.is_empty() || !self.tracees.process.is_alive() {
            return RemoteCallError::Gone { pid };
        }
        RemoteCallError::ThreadEnded { tid: self.tid }
    }

    fn await_event(&mut self, deadline: &Deadline) -> Result<Event> {
        loop {
            match self.check("wait for", wait(self.tid, true))? {
                Waited::Event(event) => return Ok(event),
                Waited::Nothing if deadline.has_passed() => return self.give_up(deadline),
                // A killed process: its first thread is reported after all others.
                Waited::Nothing => self.reap_others(),
            }
        }
    }

    fn reap_others(&mut self) {
        let tid = self.tid;
        let ended = |other: &i32| matches!(wait(*other, false), Ok(Waited::Event(Event::Ended)));
        self.tracees
            .threads
            .retain(|other, _| *other == tid || !ended(other));
    }

    /// Stops a call that takes too long, wherever it is.
    fn give_up(&mut self, deadline: &Deadline) -> Result<Event> {
        self.check("interrupt", ptrace::interrupt(self.tid))?;
        let patience = Deadline::after(RETURN_TIMEOUT);
        loop {
            match self.check("wait for", wait(self.tid, true))? {
                Waited::Event(Event::Ended) => return Ok(Event::Ended),
                Waited::Event(_) => break,
                Waited::Nothing if patience.has_passed() => break,
                Waited::Nothing => self.reap_others(),
            }
        }
        Err(RemoteCallError::TimedOut {
            tid: self.tid,
            timeout: deadline.timeout(),
        })
    }

    /// The way back, after success and failure alike: the thread is in some stop of the call.
    fn finish<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(RemoteCallError::Gone { .. } | RemoteCallError::ThreadEnded { .. }) = result {
            return result;
        }
        let restored = self.restore();
        let value = result?;
        restored.map(|()| value)
    }

    fn restore(&mut self) -> Result<()> {
        // In this order: with the registers the thread leaves the reach of the frame, so by then
        // everything else must be in place.
        let state = ptrace::set_extended_state(self.tid, &self.extended_state);
        self.check("restore the extended state of", state)?;
        let mask = ptrace::set_signal_mask(self.tid, self.signal_mask);
        self.check("restore the signal mask of", mask)?;
        let ready = ptrace::set_registers(self.tid, &restart_ready(&self.registers));
        self.check("restore the registers of", ready)?;
        self.reach_ordinary_stop()?;
        if self.suspended {
            self.check("set the options of", ptrace::set_options(self.tid, OPTIONS))?;
        }
        Ok(())
    }

    /// From any stop to one in which the kernel's restart logic is still to come, with no
    /// instruction executed in between: a request made during a stop is answered by another stop,
    /// before user mode and before any signal.
    fn reach_ordinary_stop(&mut self) -> Result<()> {
        self.check("interrupt", ptrace::interrupt(self.tid))?;
        self.check("continue", ptrace::go(self.tid, Go::Continue, 0))?;
        let deadline = Deadline::after(RETURN_TIMEOUT);
        loop {
            match self.await_event(&deadline)? {
                Event::Stop { group } => {
                    let original = ptrace::set_registers(self.tid, &self.registers);
                    self.check("restore the registers of", original)?;
                    if let Some(tracee) = self.tracees.threads.get_mut(&self.tid) {
                        tracee.condition = Condition::Stopped { group };
                        tracee.registers = self.registers;
                    }
                    return Ok(());
                }
                Event::Ended => return Err(self.ended()),
                _ => self.check("continue", ptrace::go(self.tid, Go::Continue, 0))?,
            }
        }
    }

    /// Makes a system call by borrowed instructions, on the thread's own stack.
    ///
    /// Where the target has no restorer, or the stack has no room, there is no frame: then a thread
    /// whose tracer is killed during these few microseconds would go on at the borrowed instruction.
    pub(crate) fn system_call(mut self, number: i64, arguments: [u64; 6]) -> Result<u64> {
        let alarm = Alarm::start();
        let _alarm = self.check("start a timer for", alarm)?;
        self.suspend_filter(LOADER_CALLS.contains(&number))?;
        let process = self.tracees.process.clone();
        let gadgets = *process
            .shared
            .gadgets
            .get_or_init(|| Gadgets::find(&process));
        let instruction = gadgets.system_call(&process);
        let pid = process.pid();
        let (entry, returns) = instruction.ok_or(RemoteCallError::NoInstruction { pid })?;
        let restorer = gadgets.restorer(&process).filter(|_| returns);
        let borrowed = match restorer {
            Some(restorer) => self.borrow_stack(restorer)?,
            None => None,
        };
        let stack = borrowed
            .as_ref()
            .map_or(self.registers.rsp.into(), |b| b.frame.address);
        self.set_off(entry, stack, arguments, number as u64)?;
        let result = self.run_system_call();
        let result = self.finish(result);
        if let Some(borrowed) = borrowed {
            process
                .memory()
                .write(borrowed.frame.address, &borrowed.before)?;
        }
        decode_result(number, result?)
    }

    /// Writes a frame below the thread's own stack, if that can be done. The stack of a coroutine may
    /// be a small piece of something else, so what was there is put back.
    fn borrow_stack(&self, restorer: TargetAddress) -> Result<Option<Borrowed>> {
        let memory = self.tracees.process.memory();
        let frame = self.frame(self.registers.stack_pointer() - RED_ZONE, restorer)?;
        let length = frame.bytes.len() as u64;
        let before = match memory.read_bytes(frame.address, length, length) {
            Ok(before) => before,
            Err(MemoryError::Unmapped { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match memory.write(frame.address, &frame.bytes) {
            Ok(()) => Ok(Some(Borrowed { frame, before })),
            Err(MemoryError::Unmapped { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Through the entry and the exit of one system call.
    fn run_system_call(&mut self) -> Result<u64> {
        let deadline = Deadline::after(SYSTEM_CALL_TIMEOUT);
        self.run_to_system_call(&deadline)?;
        self.run_to_system_call(&deadline)?;
        let registers = self.check("read the registers of", ptrace::registers(self.tid))?;
        Ok(registers.rax)
    }
}

struct Borrowed {
    frame: SignalFrame,
    before: Vec<u8>,
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
