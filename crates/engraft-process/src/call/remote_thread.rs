//! The thread in which a remote call runs: letting it run, watching it, and bringing it back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;

use crate::process::deadline::Deadline;
use crate::stop::release::PROCESSOR_WITHIN;
use crate::sys::address::TargetAddress;
use crate::sys::registers::Registers;

use crate::call::remote_error::RemoteCallError;
use crate::call::requests::Service;
use crate::process::task::TaskState;
use crate::sys::ptrace::{self, Go};
use crate::sys::restart::{SYSCALL, will_restart};
use crate::sys::schedule::{Hurry, give_way_no_longer_than_patience};
use crate::sys::wait::{Event, Waited, wait, wait_soon};
use crate::trace::tracees::{Condition, Tracees};

/// SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS: raised by instructions.
const SYNCHRONOUS: u64 = 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 30;
/// Direction flag and trap flag of `eflags`.
const DIRECTION_AND_TRAP: u64 = 1 << 10 | 1 << 8;
/// How long a thread may take to stop that sleeps in the kernel.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// What a thread that is borrowed for a call needs in order to be as it was.
pub(crate) struct Kept {
    pub(crate) tid: i32,
    /// As it was stopped.
    pub(crate) registers: Registers,
    condition: Condition,
    pub(crate) signal_mask: u64,
    pub(crate) extended_state: Vec<u8>,
    /// The stack pointer with which `rt_sigreturn` restores the thread, once there is a frame.
    pub(crate) frame_at_return: Option<TargetAddress>,
    /// Its seccomp filter is suspended. That must last until it stands in an ordinary stop again: see
    /// [`crate::call::way_back`].
    pub(crate) suspended: bool,
    /// From when it has waited for a processor for long until it is let go.
    hurry: Option<Hurry>,
}

/// One thread borrowed for a call.
pub(crate) struct Caller<'t> {
    pub(crate) tracees: &'t mut Tracees,
    pub(crate) tid: i32,
    pub(crate) kept: Kept,
}

pub(crate) type Result<T> = std::result::Result<T, RemoteCallError>;

impl<'t> Caller<'t> {
    /// Saves the state of a stopped thread.
    pub(crate) fn new(tracees: &'t mut Tracees, tid: i32) -> Result<Self> {
        give_way_no_longer_than_patience();
        tracees.restore_returned()?;
        tracees.forget_prepared(tid);
        let tracee = tracees.threads.get(&tid).copied();
        let tracee = tracee.ok_or(RemoteCallError::ThreadEnded { tid })?;
        if tracee.is_kernel_worker {
            return Err(RemoteCallError::KernelWorker { tid });
        }
        let kept = Kept {
            tid,
            registers: tracee.registers,
            condition: tracee.condition,
            signal_mask: 0,
            extended_state: Vec::new(),
            frame_at_return: None,
            suspended: false,
            // ORDERING: nothing else is told by it.
            hurry: tracees
                .process
                .shared
                .is_crowded
                .load(Ordering::Relaxed)
                .then(|| Hurry::of(tid)),
        };
        let mut caller = Self::with(tracees, kept);
        caller.refuse_unknown_entry()?;
        if ptrace::has_shadow_stack(tid) {
            return Err(RemoteCallError::ShadowStack { tid });
        }
        let mask = ptrace::signal_mask(tid);
        caller.kept.signal_mask = caller.check("read the signal mask of", mask)?;
        let state = ptrace::extended_state(tid);
        caller.kept.extended_state = caller.check("read the extended state of", state)?;
        Ok(caller)
    }

    /// Takes up again what was kept.
    pub(crate) fn with(tracees: &'t mut Tracees, kept: Kept) -> Self {
        Self {
            tid: kept.tid,
            tracees,
            kept,
        }
    }

    /// The kernel steps back over two bytes to restart a call; with us, the thread would do it by
    /// itself, and must find the instruction there that it came by.
    fn refuse_unknown_entry(&self) -> Result<()> {
        if !will_restart(&self.kept.registers) {
            return Ok(());
        }
        let at = self.kept.registers.instruction_pointer() - 2;
        let instruction: [u8; SYSCALL.len()] = self.tracees.process.memory().read_array(at)?;
        if instruction == SYSCALL {
            return Ok(());
        }
        Err(RemoteCallError::UnknownEntry { tid: self.tid })
    }

    pub(crate) fn check<T>(
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

    /// Sets the thread off: the point from which on it would restore itself.
    pub(crate) fn set_off(
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
            eflags: self.kept.registers.eflags & !DIRECTION_AND_TRAP,
            ..self.kept.registers
        };
        self.check(
            "set the registers of",
            ptrace::set_registers(self.tid, &registers),
        )?;
        if let Some(tracee) = self.tracees.threads.get_mut(&self.tid) {
            tracee.condition = Condition::Running;
        }
        let mask = !SYNCHRONOUS | self.kept.signal_mask;
        self.check(
            "block the signals of",
            ptrace::set_signal_mask(self.tid, mask),
        )
    }

    /// Lets the thread go on until the next entry or exit of a system call.
    pub(crate) fn run_to_system_call(
        &mut self,
        deadline: &Deadline,
        service: &mut Service<'_, '_>,
    ) -> Result<()> {
        let mut signal = 0;
        loop {
            let went_on = ptrace::go(self.tid, Go::ToSystemCall, signal);
            self.check("continue", went_on)?;
            signal = 0;
            let event = match self.await_event(deadline, service)? {
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

    pub(crate) fn ended(&mut self) -> RemoteCallError {
        self.tracees.threads.remove(&self.tid);
        // The last of them: the pidfd may lag behind by the time the kernel needs to tidy up.
        let pid = self.tracees.pid();
        if self.tracees.threads.is_empty() || !self.tracees.process.is_alive() {
            return RemoteCallError::Gone { pid };
        }
        RemoteCallError::ThreadEnded { tid: self.tid }
    }

    /// The next event; `None` if none comes in time.
    pub(crate) fn await_event(
        &mut self,
        deadline: &Deadline,
        service: &mut Service<'_, '_>,
    ) -> Result<Option<Event>> {
        loop {
            let waited = wait_soon(self.tid, service.patience(), || service.look());
            match self.check("wait for", waited)? {
                Waited::Event(event) => return Ok(Some(event)),
                Waited::Nothing if deadline.has_passed() => return Ok(None),
                // A killed process: its first thread is reported after all others.
                Waited::Nothing => self.note_others(),
            }
            self.hurry_if_crowded();
        }
    }

    /// The thread has not come back at once. If it waits for a processor, it has short turns from now on, and so has
    /// every thread in which we make a call later: a call has several stops, and each would wait for a turn.
    fn hurry_if_crowded(&mut self) {
        if self.kept.hurry.is_some() {
            return;
        }
        let stat = self.tracees.process.task(self.tid).stat();
        if matches!(stat, Ok(Some(stat)) if stat.state == TaskState::Running) {
            // ORDERING: nothing else is told by it.
            self.tracees
                .process
                .shared
                .is_crowded
                .store(true, Ordering::Relaxed);
            self.kept.hurry = Some(Hurry::of(self.tid));
        }
    }

    /// Takes note of what has happened to all others. What fails is no reason to give up a call.
    fn note_others(&mut self) {
        if let Err(error) = self.tracees.service_except(Some(self.tid)) {
            tracing::debug!(%error, "an event was not answered");
        }
    }

    /// Stops a call that takes too long, wherever it is.
    fn give_up(&mut self, deadline: &Deadline) -> Result<Event> {
        self.check("interrupt", ptrace::interrupt(self.tid))?;
        let process = &self.tracees.process;
        let (patience, last) = (
            process.patience(STOP_TIMEOUT),
            process.patience(PROCESSOR_WITHIN),
        );
        loop {
            match self.check("wait for", wait(self.tid, true))? {
                Waited::Event(Event::Ended) => return Ok(Event::Ended),
                Waited::Event(_) => break,
                // It only lacks a processor, or does not stop at all for now.
                Waited::Nothing if last.has_passed() => break,
                Waited::Nothing if patience.has_passed() && !self.tracees.stops_soon(self.tid) => {
                    break;
                }
                Waited::Nothing => self.note_others(),
            }
        }
        Err(self.timed_out(deadline))
    }

    pub(crate) fn timed_out(&self, deadline: &Deadline) -> RemoteCallError {
        RemoteCallError::TimedOut {
            tid: self.tid,
            timeout: deadline.timeout(),
        }
    }

    /// The way back, after success and failure alike: the thread is in some stop of the call.
    pub(crate) fn finish<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(RemoteCallError::Gone { .. } | RemoteCallError::ThreadEnded { .. }) = result {
            return result;
        }
        let restored = self.restore();
        let value = result?;
        restored.map(|()| value)
    }

    /// We cannot go on with a call that has begun. Taking its thread out of the middle of it would leave
    /// whatever the function is at half done, and its locks taken. So the thread is let go: it finishes
    /// the call and restores itself, as it would if we had died.
    pub(crate) fn leave_alone<T>(mut self, error: RemoteCallError) -> Result<T> {
        match ptrace::detach(self.tid) {
            Ok(()) => {
                self.tracees.threads.remove(&self.tid);
                Err(error)
            }
            Err(_) => self.finish(Err(error)),
        }
    }

    /// The call has returned: its thread is about to restore itself, and stands still before that. It is
    /// restored from outside when it is used again or let go, so that those whom this would keep waiting
    /// can be let go before. If we die until then, it does restore itself.
    pub(crate) fn leave(self) {
        if let Some(tracee) = self.tracees.threads.get_mut(&self.tid) {
            tracee.condition = self.kept.condition;
        }
        self.tracees.returned = Some(self.kept);
    }
}
