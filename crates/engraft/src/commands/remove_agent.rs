//! `engraft remove --agent`: takes an agent without patches out of a process.

use std::time::Duration;

use engraft_abi::{AGENT_MAPPING_NAME, Command};
use engraft_process::{Process, StoppedProcess, WalkContext};

use crate::agent::calls::Calls;
use crate::agent::leftovers;
use crate::agent::mapping::unmap;
use crate::agent::running::RunningAgent;
use crate::agent::snapshot::{PatchPhase, Snapshot};
use crate::backoff::Backoff;
use crate::error::Error;
use crate::session::Session;
use crate::transition::adopt::adopt;
use crate::transition::stack_check::{expect_clear, walk_context};

/// Removes an agent without patches from a process, and whatever an injection that was not
/// completed has left there. Waits up to `timeout` until no thread is inside the agent. Returns
/// whether there was an agent.
///
/// # Errors
/// [`Error::PatchesLeft`] if the agent has patches, and [`Error::ThreadInside`] if a thread is
/// still inside it when the time is up.
pub fn remove_agent(process: &Process, timeout: Duration) -> Result<bool, Error> {
    let removed = find_and_remove(process, timeout)?;
    leftovers::expect_none(process)?;
    Ok(removed)
}

fn find_and_remove(process: &Process, timeout: Duration) -> Result<bool, Error> {
    let pid = process.pid();
    let Some(session) = Session::find(process, Backoff::of(process, timeout))? else {
        return Ok(false);
    };
    adopt(&session, "")?;
    let patches = Snapshot::read(&session.agent)?.patches;
    if !patches.is_empty() {
        let names = patches.into_iter().map(|patch| patch.name).collect();
        return Err(Error::PatchesLeft { pid, names });
    }
    let mut context = None;
    let mut looks = 0;
    loop {
        looks += 1;
        let mut stopped = session.stop()?;
        let removed = remove_stopped(&mut stopped, &session.agent, context.as_ref());
        stopped.detach()?;
        match session.note_unfinished(removed) {
            Ok(()) => {
                session.forget_agent();
                return Ok(true);
            }
            Err(Error::ThreadInside { .. }) if session.backoff.wait().is_ok() => {
                context = Some(walk_context(process, std::iter::empty())?);
            }
            Err(error) if error.is_busy() => session.wait_for_loader()?,
            Err(error) => return Err(error.within(timeout, looks)),
        }
    }
}

/// Removes an agent that is of no use, as far as that is possible now: after a command that failed,
/// nothing of engraft stays in a process that had nothing of it before. An agent that keeps
/// disabled patches is only detached from the loader.
pub(super) fn remove_unused_agent(session: &Session<'_>) {
    if !session.process.is_alive() {
        return;
    }
    if let Err(error) = try_to_remove_unused_agent(session) {
        tracing::info!(%error, "the agent stays");
    }
}

fn try_to_remove_unused_agent(session: &Session<'_>) -> Result<(), Error> {
    // The command that failed may still be under way in the target, and may have prepared a patch.
    session.settle()?;
    if let Some(prepared) = Snapshot::read(&session.agent)?.prepared {
        session.command(Command::Abandon, [prepared, 0])?;
    }
    // Images of the abandoned patch may have to stay, so it may be among the patches.
    let patches = Snapshot::read(&session.agent)?.patches;
    let mut states = patches.iter().map(|patch| patch.state);
    if states.any(|state| state != PatchPhase::Disabled) {
        return Ok(());
    }
    // Calls of the agent have left its addresses on stacks, so a scan alone would find some.
    let context = walk_context(session.process, std::iter::empty())?;
    let mut stopped = session.stop()?;
    match patches.is_empty() {
        true => {
            let removed = remove_stopped(&mut stopped, &session.agent, Some(&context));
            session.note_unfinished(removed)?;
            session.forget_agent();
        }
        false => {
            let answer = session.command_stopped(&mut stopped, Command::Detach, [0; 2])?;
            answer.done(session.pid())?;
        }
    }
    Ok(stopped.detach()?)
}

/// Detaches an agent without patches from the loader, and unmaps its memory. With a `context`,
/// stacks are walked precisely: calls of the agent leave its addresses on stacks.
///
/// # Errors
/// [`Error::ThreadInside`] if a thread is inside the agent, or inside the part of an unwinder that
/// leads to it.
fn remove_stopped(
    stopped: &mut StoppedProcess,
    agent: &RunningAgent,
    context: Option<&WalkContext>,
) -> Result<(), Error> {
    let process = stopped.process().clone();
    let pid = process.pid();
    let mapping = agent.mapping()?;
    let maps = process.maps()?;
    let unwinders = Snapshot::read(agent)?.unwinders.into_iter();
    let code = unwinders.map(|it| it.code).filter(|code| !code.is_empty());
    for range in code.chain([mapping.clone()]) {
        expect_clear(stopped, &maps, range, AGENT_MAPPING_NAME, context)?;
    }
    let mut thread = stopped.calling_thread().ok_or(Error::NoThread { pid })?;
    agent
        .command_writing(&mut thread, Command::Detach, [0; 2])?
        .done(pid)?;
    let mut calls = Calls::In(&mut thread);
    unmap(&mut calls, mapping.start, mapping.end - mapping.start)
}
