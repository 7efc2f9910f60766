//! The threads that this thread traces: attaching, waiting, releasing.
//!
//! ptrace belongs to the tracing thread, not to its process: every request must come from the
//! thread that attached. So nothing in here is `Send`.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::rc::Rc;

use rustix::io::Errno;

use crate::call::prepared::Prepared;
use crate::call::remote_thread::Kept;
use crate::process::deadline::Deadline;
use crate::process::handle::Process;
use crate::process::task::{Task, TaskStat, TaskState};
use crate::sys::alarm::Alarm;
use crate::sys::ptrace::{self, Go};
use crate::sys::registers::Registers;
use crate::sys::restart::{hide_our_interrupt, take_back_restart};
use crate::sys::schedule::Hurry;
use crate::sys::wait::{Event, Waited, wait};
use crate::trace::reaper::attaching;
use crate::trace::stop_error::StopError;

/// New threads are attached as they are born; stops at system calls are told from signals; a new
/// program is noticed.
pub(crate) const OPTIONS: i32 =
    libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXEC;

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

/// All traced threads of one process.
pub(crate) struct Tracees {
    pub(crate) process: Process,
    pub(crate) threads: BTreeMap<i32, Tracee>,
    /// Threads in the list of the process that have ended without being forgotten, at the last look.
    pub(crate) ended: u64,
    /// Processes that were attached because a thread made them with a bare clone.
    pub(crate) strangers: Vec<i32>,
    /// The states of threads that were looked at right before they are stopped.
    pub(crate) seen: HashMap<i32, TaskStat>,
    /// Do we want the threads to stop? Otherwise every stop is answered by letting go.
    pub(crate) wanted: bool,
    /// Do we trace all threads? Otherwise some, and those that they start.
    pub(crate) everyone: bool,
    /// The list of threads, opened: whether we know all of them.
    pub(crate) directory: Option<File>,
    /// The memory, opened for writing into read-only pages.
    pub(crate) protected: Rc<RefCell<Option<File>>>,
    pub(crate) executed: bool,
    /// A thread has ended, or has got another number.
    any_ended: bool,
    /// Those of the stopped threads that were running: the first to go on.
    pub(crate) runners: Vec<i32>,
    /// Those that were asleep, but wake often: the next to go on. Not before the others: they would be put where
    /// a runner has been, and wait there until its turn is over.
    pub(crate) lively: Vec<i32>,
    /// A call that can begin at once.
    pub(crate) prepared: Option<Prepared>,
    /// The thread whose call has returned, before it is restored.
    pub(crate) returned: Option<Kept>,
    /// From the first stop until all go on: waits look up now and then.
    alarm: Option<Alarm>,
    /// From the last threads' stop until they go on.
    hurry: Option<Hurry>,
    /// ptrace is per thread: neither `Send` nor `Sync`.
    _this_thread: PhantomData<*const ()>,
}

impl Tracees {
    /// Becomes the tracer of every thread, without stopping any.
    pub(crate) fn seize(process: &Process, deadline: &Deadline) -> Result<Self, StopError> {
        let mut tracees = Self::none(process, true);
        tracees.refuse_core_dump()?;
        // A thread that is seized can be let go only while it is stopped. So one that may not
        // stop for long is not even seized.
        let tids = Task::list(process.pid());
        let tids = tids.map_err(|error| tracees.system("list the threads", error))?;
        tracees.await_uninterruptible(&tids, deadline)?;
        // A thread that is not yet seized may start others while the list is read. Those started
        // by seized ones are attached at birth. So the set is complete when a look finds none.
        while tracees.seize_unknown()? {
            if deadline.has_passed() {
                let (pid, tid, timeout) = (process.pid(), process.pid(), deadline.timeout());
                return Err(StopError::TimedOut { pid, tid, timeout });
            }
        }
        if tracees.threads.is_empty() {
            return Err(tracees.gone());
        }
        Ok(tracees)
    }

    /// Becomes the tracer of some threads; those that have ended are left out.
    pub(crate) fn seize_some(
        process: &Process,
        tids: &[i32],
        deadline: &Deadline,
    ) -> Result<Self, StopError> {
        let mut tracees = Self::none(process, false);
        tracees.refuse_core_dump()?;
        tracees.seen = tracees.await_uninterruptible(tids, deadline)?;
        tids.iter().for_each(|tid| process.excuse(*tid));
        tracees.seize_all(tids)?;
        Ok(tracees)
    }

    fn none(process: &Process, everyone: bool) -> Self {
        Self {
            process: process.clone(),
            threads: BTreeMap::new(),
            ended: 0,
            strangers: Vec::new(),
            seen: HashMap::new(),
            wanted: false,
            everyone,
            directory: None,
            protected: Rc::default(),
            executed: false,
            any_ended: false,
            runners: Vec::new(),
            lively: Vec::new(),
            prepared: None,
            returned: None,
            alarm: None,
            hurry: None,
            _this_thread: PhantomData,
        }
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

    /// Started once for each stop: making a timer costs more than a wait that it guards.
    pub(crate) fn start_alarm(&mut self) -> Result<(), StopError> {
        if self.alarm.is_none() {
            let alarm = Alarm::start().map_err(|error| self.system("start a timer", error))?;
            self.alarm = Some(alarm);
        }
        Ok(())
    }

    /// Threads that were running are about to stand still.
    pub(crate) fn hurry(&mut self) {
        self.hurry.get_or_insert_with(Hurry::begin);
    }

    /// They go on.
    pub(crate) fn end_hurry(&mut self) {
        self.hurry = None;
    }

    pub(crate) fn end_alarm(&mut self) {
        self.alarm = None;
    }

    /// A thread that is not the first one and runs another program takes the first one's number. If we trace some
    /// threads only, and not the first one, it stands still then under a number that we do not know. Whether that is
    /// so; it is one of ours from then on.
    pub(crate) fn adopt_program(&mut self) -> Result<bool, StopError> {
        let pid = self.pid();
        if self.everyone || !self.any_ended || self.threads.contains_key(&pid) {
            return Ok(false);
        }
        self.any_ended = false;
        let status = self.process.task(pid).status();
        let status = status.map_err(|error| self.system("read the status", error))?;
        let us = rustix::thread::gettid().as_raw_nonzero().get();
        let stat = self.process.task(pid).stat();
        let stat = stat.map_err(|error| self.system("read the state", error))?;
        let lives = stat.is_some_and(|stat| stat.state != TaskState::Dead);
        let is_ours = lives && status.is_some_and(|status| status.tracer == us);
        if is_ours {
            self.threads.insert(pid, Tracee::new());
            // Perhaps it had run it when we attached; then nothing more is said about that.
            self.executed = true;
        }
        Ok(is_ours)
    }

    pub(crate) fn was_running(&self, tid: i32) -> bool {
        let tracee = self.threads.get(&tid);
        tracee.is_some_and(|tracee| tracee.was_running)
    }

    fn refuse_core_dump(&self) -> Result<(), StopError> {
        let status = self.process.memory_task().status();
        match status.map_err(|error| self.system("read the status", error))? {
            Some(status) if status.core_dumping => Err(StopError::CoreDumping { pid: self.pid() }),
            _ => Ok(()),
        }
    }

    /// Attaches to the threads that are not yet known; says whether there were any.
    pub(crate) fn seize_unknown(&mut self) -> Result<bool, StopError> {
        let tids = Task::list(self.pid());
        let mut tids = tids.map_err(|error| self.system("list the threads", error))?;
        self.ended = 0;
        tids.retain(|tid| !self.threads.contains_key(tid));
        self.seize_all(&tids)
    }

    /// Attaches to these threads; says whether there were any.
    fn seize_all(&mut self, tids: &[i32]) -> Result<bool, StopError> {
        let seize = |tracees: &mut Self, tid: i32| {
            if !tracees.everyone {
                // A number that is not in the list of this process may have become somebody else's.
                let stat = tracees.process.task(tid).stat();
                let stat = stat.map_err(|error| tracees.system("read the state", error))?;
                if stat.is_none() {
                    return Ok(false);
                }
            }
            tracees.seize_thread(tid)
        };
        match tids {
            [] => Ok(false),
            [tid] if self.threads.is_empty() => seize(self, *tid),
            tids => {
                let known: Vec<i32> = self.threads.keys().copied().collect();
                attaching(known, |attached| {
                    tids.iter().try_fold(false, |found, tid| {
                        let is_new = seize(self, *tid)?;
                        if is_new {
                            attached.add(*tid);
                        }
                        Ok(found | is_new)
                    })
                })
            }
        }
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

    /// Answers what has happened to running threads since the last time, without waiting.
    ///
    /// A seized thread stops for every signal and at the start of every new thread, and stands
    /// still until it is answered: between a resume and a detach this must be called again and again.
    pub(crate) fn service(&mut self) -> Result<(), StopError> {
        self.service_except(None)?;
        self.release_strangers();
        Ok(())
    }

    /// Answers what has happened to all but one, also to those that stand still: they may have been killed, by an
    /// exec, which waits until that is noted.
    pub(crate) fn service_except(&mut self, except: Option<i32>) -> Result<(), StopError> {
        let tids: Vec<i32> = self.threads.keys().copied().collect();
        let mut others = tids.into_iter().filter(|tid| Some(*tid) != except);
        others.try_for_each(|tid| self.service_one(tid))
    }

    /// Answers what has happened to one thread.
    pub(crate) fn service_one(&mut self, tid: i32) -> Result<(), StopError> {
        while self.threads.contains_key(&tid) {
            let waited = wait(tid, false);
            match waited.map_err(|error| self.system("wait for a thread", error))? {
                Waited::Event(event) => self.note(tid, event)?,
                Waited::Nothing => break,
            }
        }
        Ok(())
    }

    /// Takes note of an event. Whatever it was, the thread ends up stopped if that is wanted and
    /// it is at a point where it can stay; otherwise it goes on.
    pub(crate) fn note(&mut self, tid: i32, event: Event) -> Result<(), StopError> {
        match event {
            Event::Ended => {
                self.threads.remove(&tid);
                self.any_ended = true;
                return Ok(());
            }
            Event::Stop { group } if self.wanted => return self.note_stop(tid, group),
            Event::Stop { group: true } => return self.accept(ptrace::listen(tid)),
            Event::Clone => self.note_birth(tid)?,
            Event::Exec => self.executed = true,
            Event::Stop { group: false } | Event::SystemCall | Event::Signal(_) => {}
        }
        // A signal is delivered in full: the thread will then stop before the first instruction of
        // the handler, with nothing left that we would have to remember. Inside the stop, a
        // request for another one is kept, and it comes before any further signal (get_signal).
        if self.wanted {
            self.accept(ptrace::interrupt(tid))?;
        }
        let signal = match event {
            Event::Signal(signal) => signal,
            _ => 0,
        };
        self.accept(ptrace::go(tid, Go::Continue, signal))
    }

    /// `ESRCH` to a request means: killed while in the stop. Its end will be reported.
    pub(crate) fn accept(&self, result: Result<(), Errno>) -> Result<(), StopError> {
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
        let code = |at| self.process.memory().read_array(at).ok();
        if hide_our_interrupt(&mut registers, is_socket) || take_back_restart(&mut registers, code)
        {
            self.accept(ptrace::set_registers(tid, &registers))?;
        }
        self.process.note_interrupted_call(tid, &registers);
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
