//! An agent's part in a process: it takes over what is loaded before the first patch, and goes when nothing is left
//! for it to do.

use engraft_abi::{Command, Outcome};
use engraft_process::MemoryError;

use crate::agent::inject;
use crate::agent::module_list::module_list;
use crate::agent::snapshot::{PatchState, Snapshot};
use crate::error::Error;
use crate::session::Session;
use crate::transition::stack_check::walk_context;

impl Session<'_> {
    /// Has the agent take over what is loaded, at a moment at which no library is coming or going,
    /// unless it has done so before.
    pub(crate) fn attach(&self) -> Result<(), Error> {
        while !self.agent.is_attached()? {
            // Found out while everybody runs; in the stop it only has to be still true.
            let modules = self.process.modules()?;
            let list = match module_list(self.process, &modules) {
                // One of them has gone since.
                Err(Error::Memory(MemoryError::Unmapped { .. })) => {
                    self.wait_for_loader()?;
                    continue;
                }
                list => list?,
            };
            let answer = self.with_memory(&list, |list| {
                let mut stopped = self.stop()?;
                let answer = match modules.are_current(self.process) {
                    true => Some(self.command_stopped(
                        &mut stopped,
                        Command::Attach,
                        list.arguments(),
                    )?),
                    false => None,
                };
                stopped.detach()?;
                Ok(answer)
            })?;
            match answer {
                Some(answer) if !answer.is_busy() => {
                    let outcome = answer.outcome;
                    if outcome != Outcome::AlreadyThere {
                        answer.done(self.pid())?;
                    }
                }
                _ => self.wait_for_loader()?,
            }
        }
        Ok(())
    }

    /// Takes an agent that has nothing to do out again, as far as that is possible now: nothing of us
    /// stays where we could not do anything. One that keeps disabled patches only lets go of the loader.
    pub(crate) fn take_away(&self) {
        if !self.process.is_alive() {
            return;
        }
        if let Err(error) = self.try_to_take_away() {
            tracing::info!(%error, "the agent stays");
        }
    }

    fn try_to_take_away(&self) -> Result<(), Error> {
        // What failed may be at work still, and may have prepared a patch.
        self.settle()?;
        if let Some(prepared) = Snapshot::read(&self.agent)?.prepared {
            self.command(Command::Abandon, [prepared, 0])?;
        }
        // Images of the patch that was given up may have to stay.
        let patches = Snapshot::read(&self.agent)?.patches;
        let mut states = patches.iter().map(|patch| patch.state);
        if states.any(|state| state != PatchState::Disabled) {
            return Ok(());
        }
        // What the agent has done may have left its addresses on stacks.
        let context = walk_context(self.process, std::iter::empty())?;
        let mut stopped = self.stop()?;
        match patches.is_empty() {
            true => {
                let removed = inject::remove(&mut stopped, &self.agent, Some(&context));
                self.watch(removed)?;
                self.forget_agent();
            }
            false => {
                let answer = self.command_stopped(&mut stopped, Command::Detach, [0; 2])?;
                answer.done(self.pid())?;
            }
        }
        Ok(stopped.detach()?)
    }
}
