//! The threads that this thread traces: attaching, waiting, releasing.
//!
//! ptrace belongs to the tracing thread, not to its process: every request must come from the
//! thread that attached. So nothing in here is `Send`.

use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::deadline::Deadline;
use crate::process::Process;
use crate::registers::Registers;
use crate::restart::hide_our_interrupt;
use crate::stop_error::StopError;
use crate::sys::alarm::Alarm;
use crate::sys::ptrace::{self, EVENT_STOP, Go};
use crate::task::{Task, TaskState};

/// New threads are attached as they are born; stops at system calls are told from signals; a new
/// program is noticed.
pub(crate) const OPTIONS: i32 =
    libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXEC;
/// How long the backstop in `drop` waits for threads that it must first stop.
const LAST_CHANCE: Duration = Duration::from_millis(500);
/// How often a thread in an uninterruptible sleep is looked at. There is no event to wait for: a
/// stop request would leave it stopped whenever it wakes, perhaps long after we have given up.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// What a traced thread is doing, as far as we have been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It runs, or sleeps in the kernel.
    Running,
    /// It stands still at a point from which it can go on anywhere.
    Stopped {
        /// The whole process is stopped by SIGSTOP or the like: it is not to be continued.
        group: bool,
    },
}

/// One traced thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tracee {
    pub(crate) condition: Condition,
    /// It was on a processor, or waited for one, when the stop began.
    pub(crate) was_running: bool,
    /// It never runs code of the program (an io_uring worker).
    pub(crate) is_kernel_worker: bool,
    /// Valid while stopped.
    pub(crate) registers: Registers,
}

/// What `wait` said about a tracee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It has ended.
    Ended,
    /// A stop that `PTRACE_INTERRUPT`, birth or a group stop caused; the latter with its signal.
    Stop { group: bool },
    /// At the entry or exit of a system call.
    SystemCall,
    /// It has started another thread or process and stands still meanwhile.
    Clone,
    /// It runs another program.
    Exec,
    /// It is about to receive a signal.
    Signal(i32),
}

/// What came of waiting once.
pub(crate) enum Waited {
    Event(Event),
    /// Nothing has happened, or the alarm has rung.
    Nothing,
}

fn decode(status: i32) -> Event {
    if status & 0xff != 0x7f {
        return Event::Ended;
    }
    let signal = (status >> 8) & 0xff;
    match status >> 16 {
        EVENT_STOP => Event::Stop {
            group: signal != libc::SIGTRAP,
        },
        libc::PTRACE_EVENT_EXEC => Event::Exec,
        0 if signal == libc::SIGTRAP | 0x80 => Event::SystemCall,
        0 => Event::Signal(signal),
        _ => Event::Clone,
    }
}

/// Waits for the next event of one thread. `block` waits until the alarm rings at the latest.
pub(crate) fn wait(tid: i32, block: bool) -> Result<Waited, Errno> {
    // __WALL: also threads whose end sends no SIGCHLD, which all but the first are.
    let mut options = WaitOptions::from_bits_retain(libc::__WALL as u32);
    if !block {
        options |= WaitOptions::NOHANG;
    }
    match waitpid(Pid::from_raw(tid), options) {
        Ok(Some((_, status))) => Ok(Waited::Event(decode(status.as_raw()))),
        Ok(None) | Err(Errno::INTR) => Ok(Waited::Nothing),
        // Not our tracee any more: it has vanished in the exec of another thread.
        Err(Errno::CHILD) => Ok(Waited::Event(Event::Ended)),
        Err(error) => Err(error),
    }
}

/// All traced threads of one process.
pub(crate) struct Tracees {
    pub(crate) process: Process,
    pub(crate) threads: BTreeMap<i32, Tracee>,
    /// Threads in the list of the process that have ended without being forgotten, at the last look.
    ended: u64,
    /// Processes that were attached because a thread made them with a bare clone.
    strangers: Vec<i32>,
    /// Do we want the threads to stop? Otherwise every stop is answered by letting go.
    wanted: bool,
    executed: bool,
    /// ptrace is per thread: neither `Send` nor `Sync`.
    _this_thread: PhantomData<*const ()>,
}

impl Tracees {
    /// Becomes the tracer of every thread, without stopping any.
    pub(crate) fn seize(process: &Process, deadline: &Deadline) -> Result<Self, StopError> {
        let mut tracees = Self {
            process: process.clone(),
            threads: BTreeMap::new(),
            ended: 0,
            strangers: Vec::new(),
            wanted: false,
            executed: false,
            _this_thread: PhantomData,
        };
        tracees.refuse_core_dump()?;
        // A thread that is seized can be let go only while it is stopped. So one that may not
        // stop for long is not even seized.
        let tids = Task::list(process.pid());
        let tids = tids.map_err(|error| tracees.system("list the threads", error))?;
        tracees.await_uninterruptible(&tids, deadline)?;
        // A thread that is not yet seized may start others while the list is read. Those started
        // by seized ones are attached at birth. So the set is complete when a look finds none.
        while tracees.seize_unknown()? {}
        if tracees.threads.is_empty() {
            return Err(tracees.gone());
        }
        Ok(tracees)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub(crate) fn gone(&self) -> StopError {
        StopError::Gone { pid: self.pid() }
    }

    pub(crate) fn system(
        &self,
        operation: &'static str,
        source: impl Into<io::Error>,
    ) -> StopError {
        StopError::System {
            pid: self.pid(),
            operation,
            source: source.into(),
        }
    }

    fn refuse_core_dump(&self) -> Result<(), StopError> {
        let status = self.process.memory_task().status();
        match status.map_err(|error| self.system("read the status", error))? {
            Some(status) if status.core_dumping => Err(StopError::CoreDumping { pid: self.pid() }),
            _ => Ok(()),
        }
    }

    /// Attaches to the threads that are not yet known; says whether there were any.
    fn seize_unknown(&mut self) -> Result<bool, StopError> {
        let tids =
            Task::list(self.pid()).map_err(|error| self.system("list the threads", error))?;
        let mut found = false;
        self.ended = 0;
        for tid in tids {
            if !self.threads.contains_key(&tid) {
                found |= self.seize_thread(tid)?;
            }
        }
        Ok(found)
    }

    fn seize_thread(&mut self, tid: i32) -> Result<bool, StopError> {
        match ptrace::seize(tid, OPTIONS) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Ok(false),
            Err(Errno::PERM) => {
                if !self.is_ours_from_birth(tid)? {
                    return Ok(false);
                }
            }
            Err(error) => return Err(self.system("attach to a thread", error)),
        }
        self.threads.insert(tid, Tracee::new());
        Ok(true)
    }

    /// Why may a thread not be attached? It has ended (false), or is ours already (true), or is
    /// somebody else's, or we may not.
    fn is_ours_from_birth(&mut self, tid: i32) -> Result<bool, StopError> {
        let pid = self.pid();
        let task = self.process.task(tid);
        let stat = task
            .stat()
            .map_err(|error| self.system("read the state", error))?;
        match stat {
            None => return Ok(false),
            Some(stat) if stat.state == TaskState::Dead => {
                self.ended += 1;
                return Ok(false);
            }
            Some(_) => {}
        }
        let status = task
            .status()
            .map_err(|error| self.system("read the status", error))?;
        match status.map(|status| status.tracer) {
            None => Ok(false),
            Some(0) => Err(StopError::PermissionDenied { pid, tid }),
            Some(tracer) if tracer == rustix::thread::gettid().as_raw_nonzero().get() => Ok(true),
            Some(tracer) => Err(StopError::AlreadyTraced { pid, tracer }),
        }
    }

    /// Stops every thread: sleepers first, so that those who run stand still as briefly as possible.
    pub(crate) fn stop(&mut self, deadline: &Deadline) -> Result<(), StopError> {
        let _alarm = Alarm::start().map_err(|error| self.system("start a timer", error))?;
        let tids: Vec<i32> = self.threads.keys().copied().collect();
        self.await_uninterruptible(&tids, deadline)?;
        self.wanted = true;
        loop {
            let (runners, sleepers) = self.running_by_kind()?;
            self.interrupt_and_await(&sleepers, deadline)?;
            self.interrupt_and_await(&runners, deadline)?;
            if self.executed {
                return Err(StopError::Executed { pid: self.pid() });
            }
            if self.threads.is_empty() || !self.process.is_alive() {
                return Err(self.gone());
            }
            let all = self
                .threads
                .values()
                .all(|tracee| tracee.condition != Condition::Running);
            if all && self.is_complete() {
                break;
            }
            if deadline.has_passed() {
                return Err(self.too_slow(self.pid(), deadline));
            }
            self.seize_unknown()?;
        }
        self.release_strangers();
        Ok(())
    }

    /// Every thread that is started while we trace is announced to us, except with
    /// `CLONE_UNTRACED`. The link count of the task directory, two more than threads, tells of these
    /// at the price of one system call.
    fn is_complete(&self) -> bool {
        let directory = std::fs::metadata(format!("/proc/{}/task", self.pid()));
        let expected = self.threads.len() as u64 + self.ended + 2;
        directory.is_ok_and(|directory| directory.nlink() == expected)
    }

    /// Waits, with everybody still running, until no thread is in an uninterruptible sleep.
    ///
    /// Such a thread would not follow a stop request, the others would stand still for it, and when
    /// we gave up it would stop later, with nobody to let it go on.
    fn await_uninterruptible(
        &mut self,
        tids: &[i32],
        deadline: &Deadline,
    ) -> Result<(), StopError> {
        for tid in tids {
            loop {
                let stat = self.process.task(*tid).stat();
                match stat.map_err(|error| self.system("read the state", error))? {
                    Some(stat) if stat.state == TaskState::Uninterruptible => {}
                    _ => break,
                }
                if self.process.wait_for_end(LOOK_AGAIN) {
                    return Err(self.gone());
                }
                if deadline.has_passed() {
                    return Err(self.too_slow(*tid, deadline));
                }
                self.service()?;
            }
        }
        Ok(())
    }

    /// The threads that we have not stopped: those on a processor, and the others.
    fn running_by_kind(&mut self) -> Result<(Vec<i32>, Vec<i32>), StopError> {
        let (mut runners, mut sleepers) = (Vec::new(), Vec::new());
        let running = |tracee: &Tracee| tracee.condition == Condition::Running;
        let all: Vec<i32> = self
            .threads
            .iter()
            .filter(|(_, tracee)| running(tracee))
            .map(|(tid, _)| *tid)
            .collect();
        for tid in all {
            let stat = self.process.task(tid).stat();
            let stat = stat.map_err(|error| self.system("read the state", error))?;
            let Some(tracee) = self.threads.get_mut(&tid) else {
                continue;
            };
            match stat {
                // An ended first thread is not reported to us before all others are gone.
                Some(stat) if stat.state == TaskState::Dead && tid == self.process.pid() => {
                    self.threads.remove(&tid);
                    self.ended += 1;
                }
                Some(stat) => {
                    tracee.is_kernel_worker = stat.is_kernel_worker();
                    tracee.was_running = stat.state == TaskState::Running;
                    let kind = if tracee.was_running {
                        &mut runners
                    } else {
                        &mut sleepers
                    };
                    kind.push(tid);
                }
                None => sleepers.push(tid),
            }
        }
        Ok((runners, sleepers))
    }

    fn interrupt_and_await(&mut self, tids: &[i32], deadline: &Deadline) -> Result<(), StopError> {
        for tid in tids {
            match ptrace::interrupt(*tid) {
                // ESRCH, EIO: it has ended; the wait will say so.
                Ok(()) | Err(Errno::SRCH | Errno::IO) => {}
                Err(error) => return Err(self.system("interrupt a thread", error)),
            }
        }
        for tid in tids {
            self.await_stop(*tid, deadline)?;
        }
        Ok(())
    }

    pub(crate) fn is_running(&self, tid: i32) -> bool {
        let tracee = self.threads.get(&tid);
        tracee.is_some_and(|tracee| tracee.condition == Condition::Running)
    }

    fn await_stop(&mut self, tid: i32, deadline: &Deadline) -> Result<(), StopError> {
        while self.is_running(tid) {
            match wait(tid, true).map_err(|error| self.system("wait for a thread", error))? {
                Waited::Event(event) => self.note(tid, event)?,
                Waited::Nothing => {
                    // Another thread may have ended, and the one we wait for may wait, inside an
                    // exec, until somebody has taken note of that.
                    self.service_except(Some(tid))?;
                    self.forget_ended_leader(tid)?;
                    if deadline.has_passed() && self.is_running(tid) {
                        return Err(self.too_slow(tid, deadline));
                    }
                }
            }
        }
        Ok(())
    }

    fn forget_ended_leader(&mut self, tid: i32) -> Result<(), StopError> {
        if tid != self.pid() {
            return Ok(());
        }
        let stat = self.process.task(tid).stat();
        let stat = stat.map_err(|error| self.system("read the state", error))?;
        if stat.is_none_or(|stat| stat.state == TaskState::Dead) {
            self.threads.remove(&tid);
            self.ended += 1;
        }
        Ok(())
    }

    /// Why does a thread not stop?
    fn too_slow(&self, tid: i32, deadline: &Deadline) -> StopError {
        let pid = self.pid();
        let task = self.process.task(tid);
        if matches!(task.status(), Ok(Some(status)) if status.core_dumping) {
            return StopError::CoreDumping { pid };
        }
        let timeout = deadline.timeout();
        match task.stat() {
            Ok(Some(stat)) if stat.state == TaskState::Uninterruptible => {
                let activity = task.activity().ok().flatten();
                StopError::uninterruptible(pid, tid, timeout, activity)
            }
            _ if !self.process.is_alive() => self.gone(),
            _ => StopError::TimedOut { pid, tid, timeout },
        }
    }

    /// Answers what has happened to running threads since the last time, without waiting.
    ///
    /// A seized thread stops for every signal and at the start of every new thread, and stands
    /// still until it is answered: between a resume and a detach this must be called again and again.
    pub(crate) fn service(&mut self) -> Result<(), StopError> {
        self.service_except(None)
    }

    fn service_except(&mut self, except: Option<i32>) -> Result<(), StopError> {
        let tids: Vec<i32> = self.threads.keys().copied().collect();
        for tid in tids {
            while Some(tid) != except && self.is_running(tid) {
                let waited = wait(tid, false);
                match waited.map_err(|error| self.system("wait for a thread", error))? {
                    Waited::Event(event) => self.note(tid, event)?,
                    Waited::Nothing => break,
                }
            }
        }
        Ok(())
    }

    /// Takes note of an event. Whatever it was, the thread ends up stopped if that is wanted and
    /// it is at a point where it can stay; otherwise it goes on.
    fn note(&mut self, tid: i32, event: Event) -> Result<(), StopError> {
        match event {
            Event::Ended => {
                self.threads.remove(&tid);
                return Ok(());
            }
            Event::Stop { group } if self.wanted => return self.note_stop(tid, group),
            Event::Stop { group: true } => return self.accept(tid, ptrace::listen(tid)),
            Event::Clone => self.note_birth(tid)?,
            Event::Exec => self.executed = true,
            Event::Stop { group: false } | Event::SystemCall | Event::Signal(_) => {}
        }
        // A signal is delivered in full: the thread will then stop before the first instruction of
        // the handler, with nothing left that we would have to remember. Inside the stop, a
        // request for another one is kept, and it comes before any further signal (get_signal).
        if self.wanted {
            self.accept(tid, ptrace::interrupt(tid))?;
        }
        let signal = match event {
            Event::Signal(signal) => signal,
            _ => 0,
        };
        self.accept(tid, ptrace::go(tid, Go::Continue, signal))
    }

    /// `ESRCH` to a request means: killed while in the stop. Its end will be reported.
    fn accept(&self, _tid: i32, result: Result<(), Errno>) -> Result<(), StopError> {
        match result {
            Ok(()) | Err(Errno::SRCH | Errno::IO) => Ok(()),
            Err(error) => Err(self.system("continue a thread", error)),
        }
    }

    fn note_stop(&mut self, tid: i32, group: bool) -> Result<(), StopError> {
        let mut registers = match ptrace::registers(tid) {
            Ok(registers) => registers,
            Err(Errno::SRCH) => return Ok(()),
            Err(error) => return Err(self.system("read the registers", error)),
        };
        let task = self.process.task(tid);
        let is_socket = |descriptor| {
            let file = task.descriptor(descriptor).ok().flatten();
            file.is_some_and(|path| path.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
        };
        if hide_our_interrupt(&mut registers, is_socket) {
            self.accept(tid, ptrace::set_registers(tid, &registers))?;
        }
        if let Some(tracee) = self.threads.get_mut(&tid) {
            tracee.condition = Condition::Stopped { group };
            tracee.registers = registers;
        }
        Ok(())
    }

    /// A thread has started another one, which is traced from its birth. Or a process.
    fn note_birth(&mut self, tid: i32) -> Result<(), StopError> {
        let Ok(message) = ptrace::event_message(tid) else {
            return Ok(());
        };
        let Ok(born) = i32::try_from(message) else {
            return Ok(());
        };
        let stat = self.process.task(born).stat();
        match stat.map_err(|error| self.system("read the state", error))? {
            Some(_) => {
                self.threads.entry(born).or_insert_with(Tracee::new);
            }
            None => self.strangers.push(born),
        }
        Ok(())
    }

    /// Lets go of processes that were attached by accident. They stop at birth.
    fn release_strangers(&mut self) {
        for tid in std::mem::take(&mut self.strangers) {
            // Blocks only until the newborn has reached its first stop, or has ended.
            while matches!(wait(tid, true), Ok(Waited::Nothing)) {}
            if let Err(error) = ptrace::detach(tid) {
                tracing::debug!(tid, %error, "a new process is gone before it could be released");
            }
        }
    }

    /// The stopped threads, those first that are to go on first.
    fn stopped_in_order(&self) -> Vec<(i32, Tracee)> {
        let stopped = self
            .threads
            .iter()
            .filter(|(_, tracee)| tracee.condition != Condition::Running);
        let mut order: Vec<_> = stopped.map(|(tid, tracee)| (*tid, *tracee)).collect();
        order.sort_by_key(|(_, tracee)| !tracee.was_running);
        order
    }

    /// Lets all threads go on, still traced.
    pub(crate) fn resume(&mut self) -> Result<(), StopError> {
        self.wanted = false;
        for (tid, tracee) in self.stopped_in_order() {
            let result = match tracee.condition {
                Condition::Stopped { group: true } => ptrace::listen(tid),
                _ => ptrace::go(tid, Go::Continue, 0),
            };
            self.accept(tid, result)?;
            if let Some(tracee) = self.threads.get_mut(&tid) {
                tracee.condition = Condition::Running;
            }
        }
        Ok(())
    }

    /// Lets all threads go on, no longer traced. Every thread is tried; the first failure is told.
    pub(crate) fn detach_stopped(&mut self) -> Result<(), StopError> {
        let mut outcome = Ok(());
        for (tid, _) in self.stopped_in_order() {
            match ptrace::detach(tid) {
                Ok(()) => {
                    self.threads.remove(&tid);
                }
                // Killed while stopped: to be reaped below.
                Err(Errno::SRCH) => {
                    if let Some(tracee) = self.threads.get_mut(&tid) {
                        tracee.condition = Condition::Running;
                    }
                }
                Err(error) => {
                    outcome = outcome.and(Err(self.system("detach from a thread", error)))
                }
            }
        }
        outcome
    }

    /// Lets go of everything, whatever state it is in: the way back from every error.
    pub(crate) fn release(&mut self) -> Result<(), StopError> {
        let detached = self.detach_stopped();
        if self.threads.is_empty() && self.strangers.is_empty() {
            return detached;
        }
        // What is left runs, or has been killed. A thread can be let go only while it is stopped.
        let _alarm = Alarm::start().map_err(|error| self.system("start a timer", error))?;
        self.wanted = true;
        let deadline = Deadline::after(LAST_CHANCE);
        // The first thread of a killed process can be reaped only after all others.
        let tids: Vec<i32> = self.threads.keys().rev().copied().collect();
        for tid in &tids {
            self.accept(*tid, ptrace::interrupt(*tid))?;
        }
        let mut outcome = detached;
        for tid in tids {
            // Threads that were awaited before are let go at once, not when the last is there.
            outcome = outcome
                .and(self.await_stop(tid, &deadline))
                .and(self.detach_stopped());
        }
        self.release_strangers();
        outcome
    }
}

impl Tracee {
    fn new() -> Self {
        Self {
            condition: Condition::Running,
            was_running: false,
            is_kernel_worker: false,
            registers: Registers::default(),
        }
    }
}

impl Drop for Tracees {
    fn drop(&mut self) {
        if self.threads.is_empty() && self.strangers.is_empty() {
            return;
        }
        if let Err(error) = self.release() {
            // The kernel lets go of what is left when this thread ends.
            tracing::warn!(pid = self.pid(), %error, "threads remain traced");
        }
    }
}
