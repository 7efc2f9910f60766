//! Applying a patch to a process, and taking it back.

use std::time::Duration;

use engraft_abi::{Command, Outcome};
use engraft_patch::Patch;
use engraft_process::Process;

use crate::agent::payload;
use crate::agent::running::Answer;
use crate::agent::snapshot::{OpenTransition, Snapshot};
use crate::commands::objects::{Reach, check_build_ids, check_reach};
use crate::commands::remove::take_out;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::session::Session;
use crate::transition::change::{Change, go_on, take_over, turn};
use crate::transition::try_complete::{complete, end};

/// What applying a patch came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It is in effect, in all objects that are loaded: if none is, it waits.
    Now {
        /// What is loaded, and what is not: that is patched when it is.
        reach: Reach,
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
    let deadline = Deadline::of(process, timeout);
    let modules = check_build_ids(process, patch, &deadline)?;
    check_reach(process, patch, &modules)?;
    let payload = payload::encode(patch)?;
    let session = Session::find_or_inject(process, &modules, deadline)?;
    let applied = session
        .attach()
        .and_then(|()| take_over(&session, &patch.name))
        .and_then(|()| enable(&session, patch, &payload));
    if applied.is_err() {
        session.take_away();
    }
    applied
}

/// Disables a patch in a process: waits up to `timeout` for its threads to be clear of the new code.
pub fn disable(process: &Process, name: &str, timeout: Duration) -> Result<Disabled, Error> {
    let pid = process.pid();
    let Some(session) = Session::find(process, Deadline::of(process, timeout))? else {
        let text = format!("no patch '{name}' is enabled");
        return Err(Error::Agent {
            pid,
            outcome: Outcome::NoSuchPatch,
            text,
        });
    };
    take_over(&session, name)?;
    let stopped_for = match transition_of(&session, name)? {
        // Its threads are on their way back already; or they are turned round.
        Some(open) if !open.to_patched => {
            go_on(&session, &open)?;
            Duration::ZERO
        }
        Some(open) => turn(&session, &open)?,
        None => {
            let none = || session.no_patch(format!("no patch '{name}' is enabled"));
            let number = session.enabled_patch(name)?.ok_or_else(none)?;
            Change::Disable(number).make(&session)?
        }
    };
    Ok(Disabled { stopped_for })
}

/// Waits up to `timeout` for the transition of a process to end, of this patch if one is named. An error if none
/// is on.
pub fn wait(process: &Process, name: Option<&str>, timeout: Duration) -> Result<(), Error> {
    let (session, open) = open_transition(process, name, timeout)?;
    go_on(&session, &open)
}

/// Ends the transition of a patch, wherever threads are. What they may still be inside of stays in memory for
/// ever.
pub fn force(process: &Process, name: &str, timeout: Duration) -> Result<(), Error> {
    let (session, open) = open_transition(process, Some(name), timeout)?;
    if open.canceled {
        return complete(&session, open.number);
    }
    end(&session, Command::Force, open.number)
}

/// The transition that is on, of the patch that is named if one is.
fn open_transition<'p>(
    process: &'p Process,
    name: Option<&str>,
    timeout: Duration,
) -> Result<(Session<'p>, OpenTransition), Error> {
    let none = || Error::NotInTransition {
        pid: process.pid(),
        name: name.map(str::to_owned),
    };
    let session = Session::find(process, Deadline::of(process, timeout))?.ok_or_else(none)?;
    let open = Snapshot::read(&session.agent)?.transition;
    let open = open.filter(|open| name.is_none_or(|name| open.name == name));
    let open = open.ok_or_else(none)?;
    Ok((session, open))
}

/// The transition that is on, if it is this patch's.
pub(crate) fn transition_of(
    session: &Session<'_>,
    name: &str,
) -> Result<Option<OpenTransition>, Error> {
    let open = Snapshot::read(&session.agent)?.transition;
    Ok(open.filter(|open| open.name == name))
}

fn enable(session: &Session<'_>, patch: &Patch, payload: &[u8]) -> Result<Applied, Error> {
    let pid = session.pid();
    if let Some(stopped_for) = resume_enabling(session, &patch.name)? {
        return Ok(Applied::Now {
            reach: Reach::of_enabled(session, &patch.name)?,
            stopped_for,
        });
    }
    let mut answer = prepare(session, payload)?;
    if !matches!(answer.outcome, Outcome::Done | Outcome::AlreadyThere) {
        answer = prepare_stopped(session, payload)?;
    }
    if answer.outcome == Outcome::AlreadyThere {
        return Ok(Applied::Already);
    }
    let number = answer.done(pid)?.value;
    let known = Snapshot::read(&session.agent)?.patches;
    let stopped_for = Change::Enable(number).make(session).inspect_err(|error| {
        // Not even a disabled patch, where none was before; unless a thread has come as far as its code.
        let was_there = known.iter().any(|it| it.number == number);
        if !was_there && !matches!(error, Error::InTransition { .. }) && session.process.is_alive()
        {
            let at_once = Deadline::after(Duration::ZERO);
            if let Err(error) = take_out(session, number, &patch.name, &at_once) {
                tracing::info!(%error, "what was made for the patch stays");
            }
        }
    })?;
    Ok(Applied::Now {
        reach: Reach::of_enabled(session, &patch.name)?,
        stopped_for,
    })
}

/// If the patch is in transition already, has that lead to the patch, and waits for its end; how long threads
/// stood still for it.
pub(crate) fn resume_enabling(
    session: &Session<'_>,
    name: &str,
) -> Result<Option<Duration>, Error> {
    Ok(match transition_of(session, name)? {
        Some(open) if open.to_patched => {
            go_on(session, &open)?;
            Some(Duration::ZERO)
        }
        Some(open) => Some(turn(session, &open)?),
        None => None,
    })
}

/// Prepares a patch while everybody runs.
fn prepare(session: &Session<'_>, payload: &[u8]) -> Result<Answer, Error> {
    session.with_memory(payload, |memory| {
        let prepared = session.command(Command::Prepare, memory.arguments())?;
        memory.hand_over();
        Ok(prepared)
    })
}

/// Prepares a patch while everybody stands still.
fn prepare_stopped(session: &Session<'_>, payload: &[u8]) -> Result<Answer, Error> {
    session.with_memory(payload, |memory| {
        let prepared = session.command_settled(Command::Prepare, memory.arguments())?;
        memory.hand_over();
        Ok(prepared)
    })
}
