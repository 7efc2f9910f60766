//! `engraft apply`: applies a patch to a process.

use std::time::Duration;

use engraft_abi::{Command, Outcome};
use engraft_patch::Patch;
use engraft_process::Process;

use super::applied::Applied;
use super::objects::{check_build_ids, check_presence};
use super::remove::remove_patch;
use super::remove_agent::remove_unused_agent;
use crate::agent::payload;
use crate::agent::running::Answer;
use crate::agent::snapshot::Snapshot;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::session::Session;
use crate::session::attach::attach;
use crate::session::target_memory::TargetMemory;
use crate::transition::adopt::{adopt, resume_enabling};
use crate::transition::change::Change;
use crate::transition::perform::perform;

/// Applies a patch to a process. Waits up to `timeout` until the threads of the process are clear
/// of the old code.
///
/// # Errors
/// [`Error::InTransition`] if threads have yet to switch when the time is up: the transition stays
/// open. After any other error but [`Error::NotUndone`] the process runs as before.
pub fn apply(process: &Process, patch: &Patch, timeout: Duration) -> Result<Applied, Error> {
    let backoff = Backoff::of(process, timeout);
    let modules = check_build_ids(process, patch, &backoff)?;
    check_presence(process, patch, &modules)?;
    let payload = payload::encode(patch)?;
    let session = Session::find_or_inject(process, &modules, backoff)?;
    let applied = attach(&session)
        .and_then(|()| adopt(&session, &patch.name))
        .and_then(|()| prepare_and_enable(&session, patch, &payload));
    if applied.is_err() {
        remove_unused_agent(&session);
    }
    applied
}

fn prepare_and_enable(
    session: &Session<'_>,
    patch: &Patch,
    payload: &[u8],
) -> Result<Applied, Error> {
    let name = &patch.name;
    if let Some(stopped_for) = resume_enabling(session, name)? {
        return Applied::now(session, name, stopped_for);
    }
    let mut answer = prepare(session, payload, Session::command)?;
    if !matches!(answer.outcome, Outcome::Done | Outcome::AlreadyThere) {
        // A thread that was unloading a library may be the cause. No thread is, while all are
        // stopped.
        answer = prepare(session, payload, Session::command_settled)?;
    }
    if answer.outcome == Outcome::AlreadyThere {
        return Ok(Applied::Already);
    }
    let number = answer.done(session.pid())?.value;
    let known = Snapshot::read(&session.agent)?.patches;
    let stopped_for = perform(session, Change::Enable(number)).inspect_err(|error| {
        // The process had no such patch before, so it does not keep one, not even disabled. The
        // memory stays where a thread has come as far as the patch's code.
        let is_known = known.iter().any(|it| it.number == number);
        if !is_known && !matches!(error, Error::InTransition { .. }) && session.process.is_alive() {
            let at_once = Backoff::after(Duration::ZERO);
            if let Err(error) = remove_patch(session, number, name, &at_once) {
                tracing::info!(%error, "the memory of the patch stays");
            }
        }
    })?;
    Applied::now(session, name, stopped_for)
}

/// Writes the payload to memory of the target, and has the agent prepare the patch, by a method of
/// the session that gives a command.
fn prepare<'p>(
    session: &Session<'p>,
    payload: &[u8],
    command: impl FnOnce(&Session<'p>, Command, [u64; 2]) -> Result<Answer, Error>,
) -> Result<Answer, Error> {
    TargetMemory::with(session, payload, |memory| {
        let prepared = command(session, Command::Prepare, memory.arguments())?;
        memory.hand_over();
        Ok(prepared)
    })
}
