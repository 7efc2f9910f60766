//! Applying and disabling: prepare while nothing depends on it, then change everything in one stop in
//! which every thread is clear.
//!
//! A thread that is not clear makes the whole change wait: it is let go, and looked at again later. There is
//! nothing to wait for but time: a thread that leaves a function tells nobody.

use std::cell::Cell;
use std::time::{Duration, Instant};

use engraft_abi::{CodeRange, Command, DetourWrite, Outcome};
use engraft_patch::{Object, Patch};
use engraft_process::{
    BuildId, Maps, Modules, Process, StackScan, StoppedProcess, StoppedThread, TargetAddress,
    ThreadState, Verdict,
};

use crate::agent::{Answer, Plan, RunningAgent};
use crate::error::{Error, Inside};
use crate::inject::{self as injection, Injection};
use crate::payload;

/// How long one stop may take before it is given up; what comes in between is tried again.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Pauses between two looks at threads that are in the way: short at first, and then longer, so that a
/// thread that stays for long is not stopped too often.
const SHORTEST_PAUSE: Duration = Duration::from_micros(100);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What applying a patch came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It is in effect.
    Now {
        /// The objects that are not loaded; they are patched when they are.
        waiting: Vec<Waiting>,
        /// How long the threads stood still while the change was made.
        stopped_for: Duration,
    },
    /// A patch of this name is enabled already; nothing was done.
    Already,
}

/// An object that is not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its file name when the patch was built.
    pub file_name: String,
    /// Its build-id in hexadecimal digits.
    pub build_id: String,
}

/// What disabling a patch came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disabled {
    /// How long the threads stood still while the change was made.
    pub stopped_for: Duration,
}

/// Applies a patch to a process: waits up to `timeout` for its threads to be clear of the old code.
pub fn apply(process: &Process, patch: &Patch, timeout: Duration) -> Result<Applied, Error> {
    let deadline = Deadline::after(timeout);
    let modules = check_build_ids(process, patch, &deadline)?;
    let payload = payload::encode(patch)?;
    let agent = match RunningAgent::find(process)? {
        Some(agent) => agent,
        None => inject(process, &modules)?,
    };
    let applied = attach(process, &agent, &deadline)
        .and_then(|()| enable(process, &agent, patch, &payload, &deadline));
    if applied.is_err() {
        take_away(process, &agent);
    }
    applied
}

/// Disables a patch in a process: waits up to `timeout` for its threads to be clear of the new code.
pub fn disable(process: &Process, name: &str, timeout: Duration) -> Result<Disabled, Error> {
    let pid = process.pid();
    let deadline = Deadline::after(timeout);
    let Some(agent) = RunningAgent::find(process)? else {
        let text = format!("no patch '{name}' is enabled");
        return Err(Error::Agent {
            pid,
            outcome: Outcome::NoSuchPatch,
            text,
        });
    };
    let memory = TargetMemory::with(process, &agent, name.as_bytes(), &deadline)?;
    let arguments = [memory.address.get(), memory.length];
    let found = command(process, &agent, Command::Find, arguments, &deadline);
    memory.free(&deadline)?;
    let number = found?.done(pid)?.value;
    let stopped_for = change(
        process,
        &agent,
        Change {
            what: Command::Disable,
            number,
        },
        &deadline,
    )?;
    Ok(Disabled { stopped_for })
}

/// Puts the agent in. After an error nothing is left of it.
fn inject(process: &Process, modules: &Modules) -> Result<RunningAgent, Error> {
    let injection = Injection::plan(process, modules)?;
    process.prepare_calls();
    with_thread(process, |thread| injection.map(thread))
}

/// Has the agent take over what is loaded, at a moment at which no library is coming or going, unless it
/// has done so before.
fn attach(process: &Process, agent: &RunningAgent, deadline: &Deadline) -> Result<(), Error> {
    let pid = process.pid();
    while !agent.is_attached()? {
        let mut stopped = process.stop(STOP_TIMEOUT)?;
        let answer = call(&mut stopped, agent, Command::Attach, [0; 2])?;
        match answer.outcome {
            Outcome::Busy | Outcome::LoaderBusy => {}
            _ => {
                answer.done(pid)?;
                verify(agent)?;
                return Ok(stopped.detach()?);
            }
        }
        stopped.detach()?;
        deadline
            .wait_briefly()
            .map_err(|timeout| Error::LoaderBusy { pid, timeout })?;
    }
    Ok(())
}

/// Borrows one thread; all others go on.
fn with_thread<R>(
    process: &Process,
    work: impl FnOnce(&mut StoppedThread<'_>) -> Result<R, Error>,
) -> Result<R, Error> {
    let pid = process.pid();
    let mut borrowed = process.borrow_thread(STOP_TIMEOUT)?;
    let mut thread = borrowed.thread().ok_or(Error::NoThread { pid })?;
    let result = work(&mut thread);
    borrowed.detach()?;
    result
}

/// Takes an agent that has nothing to do out again, as far as that is possible now: nothing of us stays
/// where we could not do anything.
fn take_away(process: &Process, agent: &RunningAgent) {
    if !process.is_alive()
        || !matches!(crate::status(process), Ok(status) if status.patches.is_empty())
    {
        return;
    }
    let removed = process
        .stop(STOP_TIMEOUT)
        .map_err(Error::from)
        .and_then(|mut stopped| {
            let removed = injection::remove(&mut stopped, agent)?;
            stopped.detach()?;
            Ok(removed)
        });
    match removed {
        Ok(true) => {}
        Ok(false) => tracing::info!("a thread is inside the agent, which therefore stays"),
        Err(error) => tracing::info!(%error, "the agent stays"),
    }
}

fn enable(
    process: &Process,
    agent: &RunningAgent,
    patch: &Patch,
    payload: &[u8],
    deadline: &Deadline,
) -> Result<Applied, Error> {
    let pid = process.pid();
    let mut answer = prepare(process, agent, payload, deadline)?;
    if !matches!(answer.outcome, Outcome::Done | Outcome::AlreadyThere) {
        answer = prepare_stopped(process, agent, payload, deadline)?;
    }
    if answer.outcome == Outcome::AlreadyThere {
        return Ok(Applied::Already);
    }
    let number = answer.done(pid)?.value;
    match change(
        process,
        agent,
        Change {
            what: Command::Enable,
            number,
        },
        deadline,
    ) {
        Ok(stopped_for) => Ok(Applied::Now {
            waiting: waiting(process, patch)?,
            stopped_for,
        }),
        Err(error) => {
            // The agent itself forgets a patch that it could not enable.
            if let Error::ThreadInside { .. } | Error::LoaderBusy { .. } = error {
                command(process, agent, Command::Abandon, [number, 0], deadline)?.done(pid)?;
            }
            Err(error)
        }
    }
}

/// Prepares a patch while everybody runs.
fn prepare(
    process: &Process,
    agent: &RunningAgent,
    payload: &[u8],
    deadline: &Deadline,
) -> Result<Answer, Error> {
    let memory = TargetMemory::with(process, agent, payload, deadline)?;
    let arguments = [memory.address.get(), memory.length];
    command(process, agent, Command::Prepare, arguments, deadline)
}

/// Prepares a patch while everybody stands still: a failure is not the work of a thread that was unloading
/// a library at that moment.
fn prepare_stopped(
    process: &Process,
    agent: &RunningAgent,
    payload: &[u8],
    deadline: &Deadline,
) -> Result<Answer, Error> {
    let pid = process.pid();
    let memory = TargetMemory::with(process, agent, payload, deadline)?;
    loop {
        let mut stopped = process.stop(STOP_TIMEOUT)?;
        let settled = call(&mut stopped, agent, Command::Settle, [0; 2])?;
        if !settled.is_busy() {
            settled.done(pid)?;
            let arguments = [memory.address.get(), memory.length];
            let prepared = call(&mut stopped, agent, Command::Prepare, arguments)?;
            stopped.detach()?;
            return Ok(prepared);
        }
        stopped.detach()?;
        if let Err(timeout) = deadline.wait_briefly() {
            memory.free(deadline)?;
            return Err(Error::LoaderBusy { pid, timeout });
        }
    }
}

/// A prepared change: to a patch, or back from it.
#[derive(Clone, Copy)]
struct Change {
    what: Command,
    number: u64,
}

impl Change {
    fn plan(self) -> [u64; 2] {
        [self.number, matches!(self.what, Command::Enable).into()]
    }
}

/// How one attempt at a change ended.
enum Attempt {
    Done {
        stopped_for: Duration,
    },
    /// Not now, and why.
    NotNow(Error),
}

/// Makes a prepared change in one stop in which every thread is clear; how long that stop was.
fn change(
    process: &Process,
    agent: &RunningAgent,
    change: Change,
    deadline: &Deadline,
) -> Result<Duration, Error> {
    loop {
        // All that can be done while everybody runs. A stack that is mapped later is not in the map, and
        // counts as not clear; a module that comes later changes the plan's generation.
        command(process, agent, Command::Plan, change.plan(), deadline)?.done(process.pid())?;
        let plan = agent.plan()?;
        let maps = process.maps()?;
        let mut stopped = process.stop(STOP_TIMEOUT)?;
        let attempt = attempt(&mut stopped, agent, change, plan, &maps, deadline)?;
        stopped.detach()?;
        match attempt {
            Attempt::Done { stopped_for } => return Ok(stopped_for),
            Attempt::NotNow(error @ Error::LoaderBusy { .. }) => {
                deadline.wait_briefly().map_err(|_| error)?;
            }
            Attempt::NotNow(error) => deadline.wait().map_err(|_| error)?,
        }
    }
}

/// Makes the change if every thread is clear.
fn attempt(
    stopped: &mut StoppedProcess,
    agent: &RunningAgent,
    change: Change,
    mut plan: Plan,
    maps: &Maps,
    deadline: &Deadline,
) -> Result<Attempt, Error> {
    let since = Instant::now();
    let (pid, timeout) = (stopped.process().pid(), deadline.timeout);
    let busy = Ok(Attempt::NotNow(Error::LoaderBusy { pid, timeout }));
    if agent.plan_generation()? != plan.generation {
        let planned = call(stopped, agent, Command::Plan, change.plan())?;
        if planned.is_busy() {
            return busy;
        }
        planned.done(pid)?;
        plan = agent.plan()?;
    }
    if let Some(error) = first_not_clear(stopped, maps, &plan.ranges, timeout) {
        return Ok(Attempt::NotNow(error));
    }
    let changed = call(stopped, agent, change.what, [change.number, 0])?;
    if changed.is_busy() {
        return busy;
    }
    changed.done(pid)?;
    verify(agent)?;
    Ok(Attempt::Done {
        stopped_for: since.elapsed(),
    })
}

/// Gives a command in a stopped process.
fn call(
    stopped: &mut StoppedProcess,
    agent: &RunningAgent,
    what: Command,
    arguments: [u64; 2],
) -> Result<Answer, Error> {
    let pid = stopped.process().pid();
    let mut thread = stopped.calling_thread().ok_or(Error::NoThread { pid })?;
    agent.command(&mut thread, what, arguments)
}

/// The first thread that executes or may return into one of the ranges, as an error.
fn first_not_clear(
    stopped: &StoppedProcess,
    maps: &Maps,
    ranges: &[CodeRange],
    timeout: Duration,
) -> Option<Error> {
    let process = stopped.process();
    let addresses: Vec<_> = ranges
        .iter()
        .map(|range| range.start.into()..range.end.into())
        .collect();
    let scan = StackScan::new(process, maps, &addresses);
    for thread in stopped.threads() {
        let (reason, start) = match scan.check(&thread) {
            Verdict::Clear => continue,
            Verdict::Running { range, .. } => (Inside::Running, Some(range.start)),
            Verdict::Sleeping { range, .. } => (Inside::Sleeping, Some(range.start)),
            Verdict::Unreliable(reason) => {
                tracing::info!(tid = thread.tid, %reason, "stack not understood");
                (Inside::Unreliable, None)
            }
        };
        return Some(thread_inside(
            process, &thread, reason, ranges, start, timeout,
        ));
    }
    None
}

fn thread_inside(
    process: &Process,
    thread: &ThreadState,
    reason: Inside,
    ranges: &[CodeRange],
    start: Option<TargetAddress>,
    timeout: Duration,
) -> Error {
    let start = start.map(TargetAddress::get);
    let range = ranges
        .iter()
        .find(|range| start.is_none_or(|start| range.start == start));
    let name = process.task(thread.tid).name();
    Error::ThreadInside {
        pid: process.pid(),
        tid: thread.tid,
        thread_name: name.unwrap_or_default(),
        reason,
        function: range.map(function_name).unwrap_or_default(),
        timeout,
    }
}

fn function_name(range: &CodeRange) -> String {
    String::from_utf8_lossy(&range.name)
        .trim_end_matches('\0')
        .to_owned()
}

/// That the code in memory is what the agent says it wrote.
fn verify(agent: &RunningAgent) -> Result<(), Error> {
    for DetourWrite {
        address,
        length,
        bytes,
    } in agent.writes()?
    {
        agent.verify(
            address.into(),
            bytes.get(..length as usize).unwrap_or_default(),
        )?;
    }
    Ok(())
}

/// Gives a command in a borrowed thread, again and again while a thread in the loader is at work.
fn command(
    process: &Process,
    agent: &RunningAgent,
    what: Command,
    arguments: [u64; 2],
    deadline: &Deadline,
) -> Result<Answer, Error> {
    loop {
        let answer = with_thread(process, |thread| agent.command(thread, what, arguments))?;
        if answer.outcome != Outcome::Busy {
            return Ok(answer);
        }
        let pid = process.pid();
        deadline
            .wait_briefly()
            .map_err(|timeout| Error::LoaderBusy { pid, timeout })?;
    }
}

/// Memory of the target for something that the agent is to read.
struct TargetMemory<'p> {
    process: &'p Process,
    agent: &'p RunningAgent,
    address: TargetAddress,
    length: u64,
}

impl<'p> TargetMemory<'p> {
    fn with(
        process: &'p Process,
        agent: &'p RunningAgent,
        content: &[u8],
        deadline: &Deadline,
    ) -> Result<Self, Error> {
        let length = content.len() as u64;
        let answer = command(process, agent, Command::Allocate, [length, 0], deadline)?;
        let address = TargetAddress::new(answer.done(process.pid())?.value);
        let memory = Self {
            process,
            agent,
            address,
            length,
        };
        process.memory().write(address, content)?;
        Ok(memory)
    }

    fn free(self, deadline: &Deadline) -> Result<(), Error> {
        let arguments = [self.address.get(), self.length];
        let answer = command(self.process, self.agent, Command::Free, arguments, deadline)?;
        answer.done(self.process.pid()).map(drop)
    }
}

/// The objects of the patch that are not loaded.
fn waiting(process: &Process, patch: &Patch) -> Result<Vec<Waiting>, Error> {
    let modules = process.modules()?;
    let absent = patch
        .objects
        .iter()
        .filter(|object| !is_loaded(&modules, object));
    Ok(absent
        .map(|object| Waiting {
            file_name: object.file_name.clone(),
            build_id: object.build_id.to_string(),
        })
        .collect())
}

fn is_loaded(modules: &Modules, object: &Object) -> bool {
    modules.iter().any(|module| {
        module
            .build_id
            .as_ref()
            .is_some_and(|id| id.as_bytes() == object.build_id.as_bytes())
    })
}

/// Finds the modules, and makes sure that no object is there in another build: a patch that silently waits
/// for a build that never comes is no success.
fn check_build_ids(
    process: &Process,
    patch: &Patch,
    deadline: &Deadline,
) -> Result<Modules, Error> {
    loop {
        let modules = process.modules()?;
        let error = patch
            .objects
            .iter()
            .filter(|object| !is_loaded(&modules, object))
            .find_map(|object| other_build(process, &modules, object));
        match error {
            None => return Ok(modules),
            // The process goes on while we look: a library that is just coming or going shows its name
            // before or after it can be read.
            Some((error, None)) => deadline.wait_briefly().map_err(|_| error)?,
            Some((error, Some(_))) => return Err(error),
        }
    }
}

/// A module with the name of an object and another build-id, which comes with the error.
fn other_build<'m>(
    process: &Process,
    modules: &'m Modules,
    object: &Object,
) -> Option<(Error, Option<&'m BuildId>)> {
    let module = modules.iter().find(|module| {
        let names = [module.path.as_deref(), Some(module.name.as_ref())];
        names.into_iter().flatten().any(|path| {
            path.file_name()
                .is_some_and(|name| name == object.file_name.as_str())
        })
    })?;
    let found = module.build_id.as_ref();
    let error = Error::WrongBuildId {
        pid: process.pid(),
        file_name: object.file_name.clone(),
        found: found.map_or("none".into(), ToString::to_string),
        expected: object.build_id.to_string(),
    };
    Some((error, found))
}

/// Until when something is tried, with growing pauses.
struct Deadline {
    timeout: Duration,
    end: Instant,
    pause: Cell<Duration>,
    tries: Cell<u32>,
}

impl Deadline {
    fn after(timeout: Duration) -> Self {
        Self {
            timeout,
            end: Instant::now() + timeout,
            pause: FIRST_PAUSE.into(),
            tries: Cell::new(0),
        }
    }

    /// Lets the target run for a moment; an error when the time is up.
    fn wait(&self) -> Result<(), Duration> {
        let pause = self.pause.get();
        if Instant::now() + pause > self.end {
            return Err(self.timeout);
        }
        std::thread::sleep(pause);
        self.pause.set((pause * 2).min(LONGEST_PAUSE));
        Ok(())
    }

    /// The same for what is over in microseconds, but may come again and again: a thread at work in the
    /// loader. Many short tries; the pauses differ, so as not to keep step with the target.
    fn wait_briefly(&self) -> Result<(), Duration> {
        if Instant::now() > self.end {
            return Err(self.timeout);
        }
        let tries = self.tries.get().wrapping_add(1);
        self.tries.set(tries);
        std::thread::sleep(SHORTEST_PAUSE * (1 + tries % 7));
        Ok(())
    }
}
