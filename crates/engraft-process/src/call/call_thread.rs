//! The thread in which a remote call runs: setting it off, watching it, and undoing the call.

use std::time::Duration;

use rustix::io::Errno;

use crate::call::remote_call_error::RemoteCallError;
use crate::call::requests::RequestHandler;
use crate::memory::access::Memory;
use crate::process::deadline::Deadline;
use crate::process::handle::Process;
use crate::process::task::TaskState;
use crate::sys::address::TargetAddress;
use crate::sys::ptrace::{self, Resume};
use crate::sys::registers::Registers;
use crate::sys::restart::SYSCALL;
use crate::sys::restart::will_restart;
use crate::sys::time_slice::{ShortSlice, end_long_slice_when_due};
use crate::sys::wait::{Event, Waited, wait, wait_soon};
use crate::trace::patience::PROCESSOR_WITHIN;
use crate::trace::traced_threads::Condition;
use crate::trace::tracees::Tracees;

/// SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS: raised by instructions.
const SYNCHRONOUS: u64 = 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 30;
/// Direction flag and trap flag of `eflags`.
const DIRECTION_AND_TRAP: u64 = 1 << 10 | 1 << 8;
/// How long a thread that sleeps in the kernel may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// What a call changes of its thread, as it was before.
pub(crate) struct SavedRegisters {
    /// The general registers, as the thread was stopped.
    pub(super) general: Registers,
    pub(super) signal_mask: u64,
    /// As ptrace gives it.
    pub(super) extended_state: Vec<u8>,
}

/// A call in one thread, from the moment in which its registers are saved until they are restored.
pub(crate) struct CallState {
    pub(super) tid: i32,
    pub(super) saved: SavedRegisters,
    condition: Condition,
    /// The stack pointer with which `rt_sigreturn` restores the thread, once there is a frame.
    pub(super) frame_at_return: Option<TargetAddress>,
    /// The thread's seccomp filter is suspended. That must last until the thread is in an ordinary
    /// stop again: see [`crate::call::restore`].
    pub(super) is_filter_suspended: bool,
    /// Kept from when the thread has waited long for a processor until it is resumed.
    short_slice: Option<ShortSlice>,
}

impl CallState {
    pub(crate) fn tid(&self) -> i32 {
        self.tid
    }
}

/// The thread in which a call is made.
pub(crate) struct CallThread<'t> {
    pub(super) tracees: &'t mut Tracees,
    pub(super) tid: i32,
    pub(super) state: CallState,
}

pub(crate) type Result<T> = std::result::Result<T, RemoteCallError>;

impl<'t> CallThread<'t> {
    /// Saves the registers of a stopped thread, in which no call is left to be undone.
    pub(super) fn new(tracees: &'t mut Tracees, tid: i32) -> Result<Self> {
        end_long_slice_when_due();
        let thread = tracees.threads().get(tid).copied();
        let thread = thread.ok_or(RemoteCallError::ThreadEnded { tid })?;
        if thread.is_kernel_worker() {
            return Err(RemoteCallError::KernelWorker { tid });
        }
        let state = CallState {
            tid,
            saved: SavedRegisters {
                general: *thread.registers(),
                signal_mask: 0,
                extended_state: Vec::new(),
            },
            condition: thread.condition(),
            frame_at_return: None,
            is_filter_suspended: false,
            short_slice: tracees.process().is_crowded().then(|| ShortSlice::of(tid)),
        };
        let mut thread = Self::with(tracees, state);
        thread.refuse_unknown_entry()?;
        if ptrace::has_shadow_stack(tid) {
            return Err(RemoteCallError::ShadowStack { tid });
        }
        let mask = ptrace::signal_mask(tid);
        thread.state.saved.signal_mask = thread.check("read the signal mask of", mask)?;
        let state = ptrace::extended_state(tid);
        thread.state.saved.extended_state = thread.check("read the extended state of", state)?;
        Ok(thread)
    }

    /// The thread of a call that has been prepared, or has returned.
    pub(super) fn with(tracees: &'t mut Tracees, state: CallState) -> Self {
        Self {
            tid: state.tid,
            tracees,
            state,
        }
    }

    pub(super) fn process(&self) -> &Process {
        self.tracees.process()
    }

    /// The kernel steps back over two bytes to restart a system call. If we die, the thread does
    /// that by itself, and must find there the instruction with which it made the call.
    fn refuse_unknown_entry(&self) -> Result<()> {
        let registers = &self.state.saved.general;
        if !will_restart(registers) {
            return Ok(());
        }
        let at = registers.instruction_pointer() - SYSCALL.len() as u64;
        let instruction: [u8; SYSCALL.len()] = Memory::new(self.process()).read_array(at)?;
        if instruction == SYSCALL {
            return Ok(());
        }
        Err(RemoteCallError::UnknownEntry { tid: self.tid })
    }

    pub(super) fn check<T>(
        &self,
        operation: &'static str,
        result: std::result::Result<T, Errno>,
    ) -> Result<T> {
        result.map_err(|error| self.error(operation, error))
    }

    fn error(&self, operation: &'static str, error: Errno) -> RemoteCallError {
        let pid = self.tracees.pid();
        match error {
            Errno::SRCH if !self.process().is_alive() => RemoteCallError::Gone { pid },
            Errno::SRCH => RemoteCallError::ThreadEnded { tid: self.tid },
            error => RemoteCallError::System {
                tid: self.tid,
                operation,
                source: error.into(),
            },
        }
    }

    /// Begins the call. From here on the thread restores itself if we die.
    pub(super) fn set_off(
        &mut self,
        entry: TargetAddress,
        stack: TargetAddress,
        arguments: [u64; 6],
        rax: u64,
    ) -> Result<()> {
        let saved = &self.state.saved;
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
            eflags: saved.general.eflags & !DIRECTION_AND_TRAP,
            ..saved.general
        };
        let mask = !SYNCHRONOUS | saved.signal_mask;
        let set = ptrace::set_registers(self.tid, &registers);
        self.check("set the registers of", set)?;
        let threads = self.tracees.threads_mut();
        threads.set_condition(self.tid, Condition::Running);
        let blocked = ptrace::set_signal_mask(self.tid, mask);
        self.check("block the signals of", blocked)
    }

    /// Resumes the thread until the next entry or exit of a system call.
    pub(super) fn run_to_system_call(
        &mut self,
        deadline: &Deadline,
        handler: &mut RequestHandler<'_, '_>,
    ) -> Result<()> {
        let mut signal = 0;
        loop {
            let resumed = ptrace::resume(self.tid, Resume::ToSystemCall, signal);
            self.check("continue", resumed)?;
            signal = 0;
            let event = match self.await_event(deadline, handler)? {
                Some(event) => event,
                None => self.give_up(deadline)?,
            };
            match event {
                Event::SystemCall => return Ok(()),
                Event::Signal(number) => signal = self.judge_signal(number)?,
                Event::Clone | Event::Exec | Event::Stop { .. } => {}
                Event::Ended => return Err(self.ended()),
            }
        }
    }

    /// Decides about a signal: one that an instruction of the call raised is an error; one that was
    /// sent is delivered.
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

    pub(super) fn ended(&mut self) -> RemoteCallError {
        self.tracees.threads_mut().remove(self.tid);
        // After the last thread's end, the pidfd may still say for a moment that the process lives.
        let pid = self.tracees.pid();
        if self.tracees.threads().is_empty() || !self.process().is_alive() {
            return RemoteCallError::Gone { pid };
        }
        RemoteCallError::ThreadEnded { tid: self.tid }
    }

    /// The next event; `None` if none comes in time.
    pub(super) fn await_event(
        &mut self,
        deadline: &Deadline,
        handler: &mut RequestHandler<'_, '_>,
    ) -> Result<Option<Event>> {
        loop {
            let waited = wait_soon(self.tid, handler.patience(), || handler.look());
            match self.check("wait for", waited)? {
                Waited::Event(event) => return Ok(Some(event)),
                Waited::Nothing if deadline.has_passed() => return Ok(None),
                // The process may have been killed: the end of its first thread is reported after
                // all others.
                Waited::Nothing => self.handle_other_events(),
            }
            self.shorten_slice_if_crowded();
        }
    }

    /// The thread has not come back at once. If it waits for a processor, it gets short time slices
    /// from now on, and so does each thread in which we make a call later: a call has several
    /// stops, and each would wait for a time slice.
    fn shorten_slice_if_crowded(&mut self) {
        if self.state.short_slice.is_some() {
            return;
        }
        let stat = self.process().task(self.tid).stat();
        if matches!(stat, Ok(Some(stat)) if stat.state == TaskState::Running) {
            self.process().note_crowded();
            self.state.short_slice = Some(ShortSlice::of(self.tid));
        }
    }

    /// Answers events of all other threads. A failure there is no reason to give up the call.
    fn handle_other_events(&mut self) {
        if let Err(error) = self.tracees.handle_events_except(Some(self.tid)) {
            tracing::debug!(%error, "an event was not answered");
        }
    }

    /// Stops a call that takes too long, wherever it is.
    fn give_up(&mut self, deadline: &Deadline) -> Result<Event> {
        self.check("interrupt", ptrace::interrupt(self.tid))?;
        let patience = self.process().patience(STOP_TIMEOUT);
        let last = self.process().patience(PROCESSOR_WITHIN);
        loop {
            match self.check("wait for", wait(self.tid, true))? {
                Waited::Event(Event::Ended) => return Ok(Event::Ended),
                Waited::Event(_) => break,
                // The thread only lacks a processor, or does not stop at all for now.
                Waited::Nothing if last.has_passed() => break,
                Waited::Nothing if patience.has_passed() && !self.tracees.stops_soon(self.tid) => {
                    break;
                }
                Waited::Nothing => self.handle_other_events(),
            }
        }
        Err(self.timed_out(deadline))
    }

    pub(super) fn timed_out(&self, deadline: &Deadline) -> RemoteCallError {
        RemoteCallError::TimedOut {
            tid: self.tid,
            timeout: deadline.timeout(),
        }
    }

    /// Restores the thread, which is in some stop of the call, after success and failure alike.
    pub(super) fn finish<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(RemoteCallError::Gone { .. } | RemoteCallError::ThreadEnded { .. }) = result {
            return result;
        }
        let restored = self.restore();
        let value = result?;
        restored.map(|()| value)
    }

    /// We cannot continue a call that has begun. To take its thread out of the middle of the call
    /// would leave the function half done, and its locks taken. So the thread is detached: it
    /// finishes the call and restores itself, as if we had died.
    pub(super) fn detach_in_call<T>(mut self, error: RemoteCallError) -> Result<T> {
        match ptrace::detach(self.tid) {
            Ok(()) => {
                self.tracees.threads_mut().remove(self.tid);
                Err(error)
            }
            Err(_) => self.finish(Err(error)),
        }
    }

    /// The call has returned: its thread is stopped before it restores itself. We restore it when
    /// it is used again or detached, so that threads which that would delay can be resumed before.
    /// If we die until then, the thread does restore itself.
    pub(super) fn restore_later(self) -> CallState {
        let threads = self.tracees.threads_mut();
        threads.set_condition(self.tid, self.state.condition);
        self.state
    }
}
