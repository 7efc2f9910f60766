//! Applying a patch to a process, and taking it back.

use std::time::Duration;

use engraft_abi::{Command, Outcome};
use engraft_patch::Patch;
use engraft_process::Process;

use crate::agent::Answer;
use crate::change::Change;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::objects::{Waiting, check_build_ids, waiting};
use crate::payload;
use crate::session::Session;

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
    let session = Session::find_or_inject(process, &modules, deadline)?;
    let applied = session
        .attach()
        .and_then(|()| enable(&session, patch, &payload));
    if applied.is_err() {
        session.take_away();
    }
    applied
}

/// Disables a patch in a process: waits up to `timeout` for its threads to be clear of the new code.
pub fn disable(process: &Process, name: &str, timeout: Duration) -> Result<Disabled, Error> {
    let pid = process.pid();
    let Some(session) = Session::find(process, Deadline::after(timeout))? else {
        let text = format!("no patch '{name}' is enabled");
        return Err(Error::Agent {
            pid,
            outcome: Outcome::NoSuchPatch,
            text,
        });
    };
    let number = session.find_patch(Command::Find, name)?.done(pid)?.value;
    let stopped_for = Change::Disable(number).make(&session)?;
    Ok(Disabled { stopped_for })
}

fn enable(session: &Session<'_>, patch: &Patch, payload: &[u8]) -> Result<Applied, Error> {
    let pid = session.pid();
    let mut answer = prepare(session, payload)?;
    if !matches!(answer.outcome, Outcome::Done | Outcome::AlreadyThere) {
        answer = prepare_stopped(session, payload)?;
    }
    if answer.outcome == Outcome::AlreadyThere {
        return Ok(Applied::Already);
    }
    let number = answer.done(pid)?.value;
    let stopped_for = switch_to(session, number)?;
    Ok(Applied::Now {
        waiting: waiting(session.process, patch)?,
        stopped_for,
    })
}

/// Enables a prepared patch. After an error it is not prepared any more.
pub(crate) fn switch_to(session: &Session<'_>, number: u64) -> Result<Duration, Error> {
    let changed = Change::Enable(number).make(session);
    // The agent itself forgets a patch that it could not enable.
    if let Err(Error::ThreadInside { .. } | Error::LoaderBusy { .. }) = changed {
        let abandoned = session.command(Command::Abandon, [number, 0])?;
        abandoned.done(session.pid())?;
    }
    changed
}

/// Prepares a patch while everybody runs.
fn prepare(session: &Session<'_>, payload: &[u8]) -> Result<Answer, Error> {
    let memory = session.target_memory(payload)?;
    session.command(Command::Prepare, memory.arguments())
}

/// Prepares a patch while everybody stands still.
fn prepare_stopped(session: &Session<'_>, payload: &[u8]) -> Result<Answer, Error> {
    let memory = session.target_memory(payload)?;
    let prepared = session.command_settled(Command::Prepare, memory.arguments());
    if let Err(Error::LoaderBusy { .. }) = prepared {
        memory.free()?;
    }
    prepared
}
