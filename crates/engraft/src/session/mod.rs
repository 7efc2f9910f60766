//! The session: one controller's work with the agent of one process, until a deadline. It gives
//! commands in borrowed threads or in a stop, waits, and sees to it that only one controller works
//! on the process.
//!
//! This folder must not know transitions, the stacks of threads, and what the user asked for.

pub(crate) mod attach;
pub(crate) mod target_memory;

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use engraft_abi::{Command, Outcome};
use engraft_process::{
    LongSlice, Modules, PartlyStopped, Process, ProcessLock, RemoteCallError, StoppedProcess,
    StoppedThread, ThreadState,
};

use crate::agent::calls::{Calls, STOP_TIMEOUT, retry_slow_stop, with_thread};
use crate::agent::inject::Injection;
use crate::agent::leftovers;
use crate::agent::running::{Answer, RunningAgent};
use crate::agent::snapshot::{PatchPhase, Snapshot};
use crate::backoff::Backoff;
use crate::contexts::Contexts;
use crate::error::Error;

/// How long a command may take, at least, that a controller has given and then died: the agent
/// waits for nothing but a processor.
const UNFINISHED_TIMEOUT: Duration = Duration::from_secs(1);

/// One controller's work with the agent of a process.
pub(crate) struct Session<'p> {
    pub(crate) process: &'p Process,
    pub(crate) agent: RunningAgent,
    pub(crate) backoff: Backoff,
    pub(crate) contexts: Contexts,
    /// `None` while another controller may work, in [`Session::wait_unlocked`].
    lock: RefCell<Option<ProcessLock>>,
    /// Whether a call may still be under way in the target that nobody watches any more.
    unfinished: Cell<bool>,
    _way: LongSlice,
}

impl<'p> Session<'p> {
    /// A session with the agent that is in the process; `None` if there is none.
    pub(crate) fn find(process: &'p Process, backoff: Backoff) -> Result<Option<Self>, Error> {
        let (way, lock) = prepare(process, &backoff)?;
        match find_agent(process)? {
            Some(agent) => {
                let unfinished = agent.set_controlled(true)?;
                Self::with(process, agent, backoff, lock, way, unfinished).map(Some)
            }
            None => {
                if leftovers::exist(process)? {
                    leftovers::remove(process, &backoff)?;
                }
                Ok(None)
            }
        }
    }

    /// A session for a command about the patch of this name. Without an agent there is no such
    /// patch, which is an error.
    pub(crate) fn find_for_patch(
        process: &'p Process,
        name: &str,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let session = Self::find(process, Backoff::of(process, timeout))?;
        session.ok_or_else(|| no_such_patch(process, name))
    }

    /// A session with the agent that is in the process, or with a new one.
    pub(crate) fn find_or_inject(
        process: &'p Process,
        modules: &Modules,
        backoff: Backoff,
    ) -> Result<Self, Error> {
        let (way, lock) = prepare(process, &backoff)?;
        if let Some(agent) = find_agent(process)? {
            let unfinished = agent.set_controlled(true)?;
            return Self::with(process, agent, backoff, lock, way, unfinished);
        }
        leftovers::remove(process, &backoff)?;
        let injection = Injection::plan(process, modules)?;
        let mut calls = Calls::borrowing(process, &backoff);
        match injection.map(&mut calls) {
            // A new agent is marked as controlled from the start.
            Ok(agent) => Self::with(process, agent, backoff, lock, way, false),
            Err(error) if !process.is_alive() => Err(error),
            Err(error) => Err(error.with_undo(leftovers::remove(process, &backoff))),
        }
    }

    fn with(
        process: &'p Process,
        agent: RunningAgent,
        backoff: Backoff,
        lock: ProcessLock,
        way: LongSlice,
        unfinished: bool,
    ) -> Result<Self, Error> {
        let session = Self {
            process,
            agent,
            backoff,
            contexts: Contexts::default(),
            lock: RefCell::new(Some(lock)),
            unfinished: Cell::new(unfinished),
            _way: way,
        };
        if unfinished {
            session.await_unfinished()?;
            session.command(Command::Reclaim, [0; 2])?;
        }
        Ok(session)
    }

    /// Waits until no thread is in a call that nobody watches any more. Such a thread finishes the
    /// call by itself. Until then the agent's stack is in use, and what the agent says is out of
    /// date.
    fn await_unfinished(&self) -> Result<(), Error> {
        let stack = self.agent.mapping()?;
        let since = Instant::now();
        while self.unfinished.get() {
            let stopped =
                retry_slow_stop(&self.backoff, || Ok(self.process.stop(STOP_TIMEOUT)?))?;
            let is_inside = |thread: ThreadState| stack.contains(&thread.registers.stack_pointer());
            let inside = stopped.threads().any(is_inside);
            stopped.detach()?;
            self.unfinished.set(inside);
            if inside && since.elapsed() > UNFINISHED_TIMEOUT && self.backoff.wait().is_err() {
                return Err(self.loader_busy());
            }
        }
        // The loader's hook runs on the program's stacks, so it is waited for by its lock. A lock
        // that stays taken was inherited by a forked process that does not have the thread that
        // took it; the next command notices that.
        while self.agent.is_busy()? && since.elapsed() < UNFINISHED_TIMEOUT {
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Waits until no call of this session is under way any more.
    pub(crate) fn settle(&self) -> Result<(), Error> {
        match self.unfinished.get() {
            true => self.await_unfinished(),
            false => Ok(()),
        }
    }

    /// Notes that the agent has been removed from the process: its memory is not written to any
    /// more.
    pub(crate) fn forget_agent(&self) {
        self.unfinished.set(true);
    }

    /// Passes on the result of a call, and notes whether the call may still be under way.
    pub(crate) fn note_unfinished<R>(&self, result: Result<R, Error>) -> Result<R, Error> {
        if let Err(Error::RemoteCall(RemoteCallError::System { .. })) = result {
            self.unfinished.set(true);
        }
        result
    }

    /// Pauses, and lets other controllers work meanwhile. The pause ends early when `is_done` says
    /// so.
    ///
    /// # Errors
    /// The timeout, if the time is up.
    pub(crate) fn wait_unlocked(&self, is_done: impl FnMut() -> bool) -> Result<(), Duration> {
        self.lock.take();
        self.backoff.wait_until(is_done)?;
        let taken = lock(self.process, &self.backoff).map_err(|_| self.backoff.timeout())?;
        self.process.watch_sleepers_anew();
        self.lock.replace(Some(taken));
        // A controller that worked meanwhile has noted the end of its own work.
        if let Err(error) = self.agent.set_controlled(true) {
            tracing::debug!(%error, "failed to note that a controller is at work");
        }
        Ok(())
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Stops all threads for a command, which is prepared before the running threads are stopped.
    pub(crate) fn stop(&self) -> Result<StoppedProcess, Error> {
        retry_slow_stop(&self.backoff, || {
            let mut sleeping = self.stop_sleepers()?;
            self.prepare_command(&mut sleeping)?;
            Ok(sleeping.stop_rest(STOP_TIMEOUT)?)
        })
    }

    /// The first half of a stop: sleeping threads are stopped, running ones run on.
    pub(crate) fn stop_sleepers(&self) -> Result<PartlyStopped, Error> {
        self.settle()?;
        let seized = self.process.seize(STOP_TIMEOUT)?;
        Ok(seized.stop_sleepers(STOP_TIMEOUT)?)
    }

    /// Prepares a command as far as that is possible before the running threads are stopped.
    pub(crate) fn prepare_command(&self, sleeping: &mut PartlyStopped) -> Result<(), Error> {
        let call = self.agent.call(Command::ForgetUnmapped, [0; 2]);
        sleeping.prepare_call(&call)?;
        Ok(())
    }

    /// Gives a command in a borrowed thread, and gives it again while a thread that loads a library
    /// keeps the agent busy.
    pub(crate) fn command(&self, what: Command, arguments: [u64; 2]) -> Result<Answer, Error> {
        loop {
            let give = |thread: &mut StoppedThread<'_>| self.agent.command(thread, what, arguments);
            self.settle()?;
            let answer = self.note_unfinished(with_thread(self.process, &self.backoff, give))?;
            if answer.outcome != Outcome::Busy {
                return Ok(answer);
            }
            self.wait_for_loader()?;
        }
    }

    /// Gives a command while all threads are stopped, and writes what the agent asks for.
    pub(crate) fn command_stopped(
        &self,
        stopped: &mut StoppedProcess,
        what: Command,
        arguments: [u64; 2],
    ) -> Result<Answer, Error> {
        let pid = self.pid();
        let mut thread = stopped.calling_thread().ok_or(Error::NoThread { pid })?;
        self.note_unfinished(self.agent.command_writing(&mut thread, what, arguments))
    }

    /// Gives a command while all threads are stopped and no library is coming or going. A failure
    /// is then not caused by a thread that was unloading a library.
    pub(crate) fn command_settled(
        &self,
        what: Command,
        arguments: [u64; 2],
    ) -> Result<Answer, Error> {
        loop {
            let mut stopped = self.stop()?;
            let settled = self.command_stopped(&mut stopped, Command::ForgetUnmapped, [0; 2])?;
            if !settled.is_busy() {
                settled.done(self.pid())?;
                let answer = self.command_stopped(&mut stopped, what, arguments)?;
                stopped.detach()?;
                return Ok(answer);
            }
            stopped.detach()?;
            self.wait_for_loader()?;
        }
    }

    /// The number of the patch of this name that is not disabled.
    pub(crate) fn enabled_patch(&self, name: &str) -> Result<Option<u64>, Error> {
        let patches = Snapshot::read(&self.agent)?.patches;
        let mut patches = patches.iter().filter(|it| it.state != PatchPhase::Disabled);
        Ok(patches.find(|it| it.name == name).map(|it| it.number))
    }

    /// The number of the newest disabled patch of this name; an error if there is none.
    pub(crate) fn disabled_patch(&self, name: &str) -> Result<u64, Error> {
        let patches = Snapshot::read(&self.agent)?.patches;
        let disabled = patches
            .iter()
            .filter(|it| it.state == PatchPhase::Disabled && it.name == name);
        let newest = disabled.map(|it| it.number).max();
        newest.ok_or_else(|| no_such_patch(self.process, name))
    }

    /// Pauses for a moment, in which a thread that loads or unloads a library gets further.
    pub(crate) fn wait_for_loader(&self) -> Result<(), Error> {
        self.backoff.wait_briefly().map_err(|_| self.loader_busy())
    }

    fn loader_busy(&self) -> Error {
        Error::LoaderBusy {
            pid: self.pid(),
            timeout: self.backoff.timeout(),
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // Without the lock, another controller may be at work.
        if self.unfinished.get() || self.lock.borrow().is_none() {
            return;
        }
        // If that fails, the next controller looks for a call that is not there.
        if let Err(error) = self.agent.set_controlled(false) {
            tracing::debug!(%error, "failed to note the end of the work");
        }
    }
}

fn no_such_patch(process: &Process, name: &str) -> Error {
    Error::Agent {
        pid: process.pid(),
        outcome: Outcome::NoSuchPatch,
        text: format!("there is no patch '{name}'"),
    }
}

/// Waits until this is the only controller of the process.
fn lock(process: &Process, backoff: &Backoff) -> Result<ProcessLock, Error> {
    let pid = process.pid();
    let since = Instant::now();
    loop {
        let lock = process
            .try_lock(since.elapsed())
            .map_err(Error::reading(process))?;
        if let Some(lock) = lock {
            return Ok(lock);
        }
        let waited = backoff.wait_briefly();
        waited.map_err(|timeout| Error::AnotherController { pid, timeout })?;
    }
}

/// Waits until this is the only controller of the process, and does what can be done before any
/// thread is stopped.
fn prepare(process: &Process, backoff: &Backoff) -> Result<(LongSlice, ProcessLock), Error> {
    let way = LongSlice::begin();
    process.prepare_calls();
    let lock = lock(process, backoff)?;
    // The controller that had the lock before may have woken sleeping threads.
    process.watch_sleepers();
    Ok((way, lock))
}

/// The agent that is in the process, after it was told of a seccomp filter that has come since.
fn find_agent(process: &Process) -> Result<Option<RunningAgent>, Error> {
    let agent = RunningAgent::find(process)?;
    if let Some(agent) = &agent {
        agent.note_filter()?;
    }
    Ok(agent)
}
