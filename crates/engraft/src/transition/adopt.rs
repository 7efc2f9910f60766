//! Adopting what a controller that has died, or whose time was up, has left in a process.

use std::time::Duration;

use engraft_abi::Command;

use super::perform::proceed;
use super::reverse::reverse;
use crate::agent::snapshot::{OpenTransition, Snapshot};
use crate::error::Error;
use crate::session::Session;

/// Adopts what another controller has left: abandons a patch that is only prepared, and completes a
/// transition that is open, unless it is of the patch `ours`.
///
/// # Errors
/// [`Error::OtherTransition`] if the transition of another patch is not complete when the time is
/// up.
pub(crate) fn adopt(session: &Session<'_>, ours: &str) -> Result<(), Error> {
    loop {
        let snapshot = Snapshot::read(&session.agent)?;
        if let Some(open) = snapshot.transition {
            if open.name == ours && !open.canceled {
                return Ok(());
            }
            proceed(session, &open).map_err(|error| error.blocking_patch(ours))?;
            continue;
        }
        let Some(prepared) = snapshot.prepared else {
            return Ok(());
        };
        let answer = session.command(Command::Abandon, [prepared, 0])?;
        answer.done(session.pid())?;
        tracing::info!("abandoned a patch that a controller had prepared before it died");
    }
}

/// The open transition, if it is of this patch.
pub(crate) fn transition_of(
    session: &Session<'_>,
    name: &str,
) -> Result<Option<OpenTransition>, Error> {
    let open = Snapshot::read(&session.agent)?.transition;
    Ok(open.filter(|open| open.name == name))
}

/// If the patch is in transition already: completes the transition towards the patch, after
/// reversing it if it leads away from it. Returns how long the threads were stopped for that, or
/// `None` if the patch is not in transition.
pub(crate) fn resume_enabling(
    session: &Session<'_>,
    name: &str,
) -> Result<Option<Duration>, Error> {
    Ok(match transition_of(session, name)? {
        Some(open) if open.to_patched => {
            proceed(session, &open)?;
            Some(Duration::ZERO)
        }
        Some(open) => Some(reverse(session, &open)?),
        None => None,
    })
}
