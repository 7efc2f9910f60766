//! `engraft wait`: waits until a transition is complete.

use std::time::Duration;

use engraft_process::Process;

use crate::agent::snapshot::{OpenTransition, Snapshot};
use crate::backoff::Backoff;
use crate::error::Error;
use crate::session::Session;
use crate::transition::perform::proceed;

/// Waits up to `timeout` until the open transition of a process is complete; with a name, only if
/// the transition is of that patch.
///
/// # Errors
/// [`Error::NotInTransition`] if there is no such transition, and [`Error::InTransition`] if
/// threads have yet to switch when the time is up.
pub fn wait(process: &Process, name: Option<&str>, timeout: Duration) -> Result<(), Error> {
    let (session, open) = open_transition(process, name, timeout)?;
    proceed(&session, &open)
}

/// The open transition; with a name, only if it is of that patch.
pub(super) fn open_transition<'p>(
    process: &'p Process,
    name: Option<&str>,
    timeout: Duration,
) -> Result<(Session<'p>, OpenTransition), Error> {
    let none = || Error::NotInTransition {
        pid: process.pid(),
        name: name.map(str::to_owned),
    };
    let session = Session::find(process, Backoff::of(process, timeout))?.ok_or_else(none)?;
    let open = Snapshot::read(&session.agent)?.transition;
    let open = open.filter(|open| name.is_none_or(|name| open.name == name));
    let open = open.ok_or_else(none)?;
    Ok((session, open))
}
