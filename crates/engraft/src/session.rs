//! One controller's work with one agent: commands in borrowed threads, until a deadline.

use std::time::Duration;

use engraft_abi::{Command, Outcome};
use engraft_process::{Modules, Process, StoppedProcess, StoppedThread, TargetAddress};

use crate::agent::{Answer, RunningAgent};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::inject::{self, Injection};

/// How long one stop may take before it is given up.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// An agent to work with.
pub(crate) struct Session<'p> {
    pub(crate) process: &'p Process,
    pub(crate) agent: RunningAgent,
    pub(crate) deadline: Deadline,
}

impl<'p> Session<'p> {
    /// With the agent that is in the process; `None` if there is none.
    pub(crate) fn find(process: &'p Process, deadline: Deadline) -> Result<Option<Self>, Error> {
        let agent = find_agent(process)?;
        Ok(agent.map(|agent| Self {
            process,
            agent,
            deadline,
        }))
    }

    /// With the agent that is in the process, or with a new one.
    pub(crate) fn find_or_inject(
        process: &'p Process,
        modules: &Modules,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let agent = match find_agent(process)? {
            Some(agent) => agent,
            None => {
                let injection = Injection::plan(process, modules)?;
                process.prepare_calls();
                with_thread(process, |thread| injection.map(thread))?
            }
        };
        Ok(Self {
            process,
            agent,
            deadline,
        })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Stops all threads.
    pub(crate) fn stop(&self) -> Result<StoppedProcess, Error> {
        Ok(self.process.stop(STOP_TIMEOUT)?)
    }

    /// Gives a command in a borrowed thread, again and again while a thread in the loader is at work.
    pub(crate) fn command(&self, what: Command, arguments: [u64; 2]) -> Result<Answer, Error> {
        loop {
            let give = |thread: &mut StoppedThread<'_>| self.agent.command(thread, what, arguments);
            let answer = with_thread(self.process, give)?;
            if answer.outcome != Outcome::Busy {
                return Ok(answer);
            }
            self.wait_for_loader()?;
        }
    }

    /// Gives a command while all threads are stopped.
    pub(crate) fn command_stopped(
        &self,
        stopped: &mut StoppedProcess,
        what: Command,
        arguments: [u64; 2],
    ) -> Result<Answer, Error> {
        let pid = self.pid();
        let mut thread = stopped.calling_thread().ok_or(Error::NoThread { pid })?;
        self.agent.command(&mut thread, what, arguments)
    }

    /// Gives a command while everybody stands still and no library is coming or going, so that a failure is
    /// not the work of a thread that was unloading one at that moment.
    pub(crate) fn command_settled(
        &self,
        what: Command,
        arguments: [u64; 2],
    ) -> Result<Answer, Error> {
        loop {
            let mut stopped = self.stop()?;
            let settled = self.command_stopped(&mut stopped, Command::Settle, [0; 2])?;
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

    /// Asks for a patch by its name. Not finding it is an answer.
    pub(crate) fn find_patch(&self, what: Command, name: &str) -> Result<Answer, Error> {
        let memory = self.target_memory(name.as_bytes())?;
        let found = self.command(what, memory.arguments());
        memory.free()?;
        found
    }

    /// Lets the thread in the loader go on for a moment.
    pub(crate) fn wait_for_loader(&self) -> Result<(), Error> {
        self.deadline.wait_briefly().map_err(|_| self.loader_busy())
    }

    pub(crate) fn loader_busy(&self) -> Error {
        Error::LoaderBusy {
            pid: self.pid(),
            timeout: self.deadline.timeout,
        }
    }

    /// Has the agent take over what is loaded, at a moment at which no library is coming or going,
    /// unless it has done so before.
    pub(crate) fn attach(&self) -> Result<(), Error> {
        while !self.agent.is_attached()? {
            let mut stopped = self.stop()?;
            let answer = self.command_stopped(&mut stopped, Command::Attach, [0; 2])?;
            if answer.is_busy() {
                stopped.detach()?;
                self.wait_for_loader()?;
                continue;
            }
            answer.done(self.pid())?;
            self.agent.verify_writes()?;
            stopped.detach()?;
        }
        Ok(())
    }

    /// Takes an agent that has nothing to do out again, as far as that is possible now: nothing of us
    /// stays where we could not do anything. One that keeps disabled patches only lets go of the loader.
    pub(crate) fn take_away(&self) {
        let Ok(crate::Status { patches, .. }) = crate::status(self.process) else {
            return;
        };
        let mut states = patches.iter().map(|patch| patch.state);
        if !self.process.is_alive() || states.any(|state| state != crate::PatchState::Disabled) {
            return;
        }
        let removed = self.stop().and_then(|mut stopped| {
            let removed = match patches.is_empty() {
                true => inject::remove(&mut stopped, &self.agent)?,
                false => {
                    let answer = self.command_stopped(&mut stopped, Command::Detach, [0; 2])?;
                    answer.done(self.pid()).map(|_| true)?
                }
            };
            stopped.detach()?;
            Ok(removed)
        });
        match removed {
            Ok(true) => {}
            Ok(false) => tracing::info!("a thread is inside the agent, which therefore stays"),
            Err(error) => tracing::info!(%error, "the agent stays"),
        }
    }

    /// Memory of the target with something that the agent is to read.
    pub(crate) fn target_memory(&self, content: &[u8]) -> Result<TargetMemory<'_, 'p>, Error> {
        let length = content.len() as u64;
        let answer = self.command(Command::Allocate, [length, 0])?;
        let address = TargetAddress::new(answer.done(self.pid())?.value);
        self.process.memory().write(address, content)?;
        Ok(TargetMemory {
            session: self,
            address,
            length,
        })
    }
}

/// Memory of the target that is ours until the agent takes it over.
pub(crate) struct TargetMemory<'s, 'p> {
    session: &'s Session<'p>,
    address: TargetAddress,
    length: u64,
}

impl TargetMemory<'_, '_> {
    /// Where it is and how long, as commands want it.
    pub(crate) fn arguments(&self) -> [u64; 2] {
        [self.address.get(), self.length]
    }

    /// Gives it back.
    pub(crate) fn free(self) -> Result<(), Error> {
        let answer = self.session.command(Command::Free, self.arguments())?;
        answer.done(self.session.pid()).map(drop)
    }
}

/// The agent that is in the process, told of a seccomp filter that was put on since.
fn find_agent(process: &Process) -> Result<Option<RunningAgent>, Error> {
    let agent = RunningAgent::find(process)?;
    if let Some(agent) = &agent {
        agent.note_filter()?;
    }
    Ok(agent)
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
