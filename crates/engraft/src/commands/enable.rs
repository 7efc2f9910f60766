//! `engraft enable`: enables a disabled patch again, as the newest one.

use std::time::Duration;

use engraft_abi::{Command, Outcome};
use engraft_process::Process;

use super::applied::Applied;
use super::remove_agent::remove_unused_agent;
use crate::error::Error;
use crate::session::Session;
use crate::session::attach::attach;
use crate::transition::adopt::{adopt, resume_enabling};
use crate::transition::change::Change;
use crate::transition::perform::perform;

/// Enables a disabled patch again, as the newest one. Waits up to `timeout` until the threads of
/// the process are clear of the old code.
///
/// # Errors
/// [`Error::InTransition`] if threads have yet to switch when the time is up: the transition stays
/// open. After any other error but [`Error::NotUndone`] the process runs as before.
pub fn enable(process: &Process, name: &str, timeout: Duration) -> Result<Applied, Error> {
    let session = Session::find_for_patch(process, name, timeout)?;
    adopt(&session, name)?;
    if let Some(stopped_for) = resume_enabling(&session, name)? {
        return Applied::now(&session, name, stopped_for);
    }
    if session.enabled_patch(name)?.is_some() {
        return Ok(Applied::Already);
    }
    let number = session.disabled_patch(name)?;
    let enabled = attach(&session).and_then(|()| prepare_and_enable(&session, number));
    match enabled {
        Ok(Some(stopped_for)) => Applied::now(&session, name, stopped_for),
        Ok(None) => Ok(Applied::Already),
        Err(error) => {
            remove_unused_agent(&session);
            Err(error)
        }
    }
}

/// Asks the agent to prepare a patch that it has kept, and enables it. `None` if it is enabled
/// already.
fn prepare_and_enable(session: &Session<'_>, number: u64) -> Result<Option<Duration>, Error> {
    let arguments = [number, 0];
    let mut answer = session.command(Command::PrepareAgain, arguments)?;
    if !matches!(answer.outcome, Outcome::Done | Outcome::AlreadyThere) {
        answer = session.command_settled(Command::PrepareAgain, arguments)?;
    }
    if answer.outcome == Outcome::AlreadyThere {
        return Ok(None);
    }
    answer.done(session.pid())?;
    perform(session, Change::Enable(number)).map(Some)
}
