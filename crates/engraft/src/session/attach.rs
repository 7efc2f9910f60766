//! Attaching the agent to the dynamic loader.

use engraft_abi::{Command, Outcome};
use engraft_process::MemoryError;

use super::Session;
use super::target_memory::TargetMemory;
use crate::agent::module_list::module_list;
use crate::error::Error;

/// Attaches the agent, unless it is attached: it learns what is loaded, at a moment at which no
/// library is coming or going, and follows the loader from then on.
pub(crate) fn attach(session: &Session<'_>) -> Result<(), Error> {
    while !session.agent.is_attached()? {
        // Read while the process runs. In the stop the list only has to be still true.
        let modules = session.process.modules()?;
        let list = match module_list(session.process, &modules) {
            // A module has been unloaded meanwhile.
            Err(Error::Memory(MemoryError::Unmapped { .. })) => {
                session.wait_for_loader()?;
                continue;
            }
            list => list?,
        };
        let answer = TargetMemory::with(session, &list, |list| {
            let mut stopped = session.stop()?;
            let answer = match modules.are_current(session.process) {
                true => Some(session.command_stopped(
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
                    answer.done(session.pid())?;
                }
            }
            _ => session.wait_for_loader()?,
        }
    }
    Ok(())
}
