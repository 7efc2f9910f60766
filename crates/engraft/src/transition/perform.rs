//! Performing a change: begin it, complete it, and undo it if that fails.

use std::time::Duration;

use engraft_abi::Command;

use super::begin::begin;
use super::change::Change;
use super::stop_check::StopCheck;
use super::try_complete::{complete, try_complete};
use crate::agent::snapshot::{OpenTransition, PatchPhase, Snapshot};
use crate::error::Error;
use crate::session::Session;

/// Performs the change, and waits until every thread has switched. Returns how long the threads
/// were stopped to begin it.
///
/// # Errors
/// After any error but [`Error::InTransition`] and [`Error::NotUndone`], everything is as before.
pub(crate) fn perform(session: &Session<'_>, change: Change) -> Result<Duration, Error> {
    let result = begin(session, change).and_then(|begun| {
        if begun.waiting > 0 {
            try_complete(session, change.number(), begun.check)?;
        }
        Ok(begun.stopped_for)
    });
    match result {
        Err(error) if !matches!(error, Error::InTransition { .. }) => {
            undo(session, change, error).map_or(Ok(Duration::ZERO), Err)
        }
        result => result,
    }
}

/// Continues an open transition, whoever began it, in the direction that it has.
pub(crate) fn proceed(session: &Session<'_>, open: &OpenTransition) -> Result<(), Error> {
    let OpenTransition {
        number, to_patched, ..
    } = *open;
    if open.canceled {
        complete(session, number)
    } else if open.started {
        try_complete(session, number, StopCheck::default())
    } else {
        perform(session, Change::Start { number, to_patched }).map(drop)
    }
}

/// Undoes a change that failed. Returns the error to report; `None` if the change was made all the
/// same, and what failed was something after it.
fn undo(session: &Session<'_>, change: Change, error: Error) -> Option<Error> {
    if !session.process.is_alive() {
        return Some(error);
    }
    match try_undo(session, change) {
        Ok(Undone::Yes) => Some(error),
        Ok(Undone::ChangeWasMade) => {
            tracing::warn!(%error, "the change was made all the same");
            None
        }
        Err(undo) => Some(Error::NotUndone {
            source: error.into(),
            undo: undo.into(),
        }),
    }
}

/// Whether a change could be undone.
enum Undone {
    Yes,
    /// There was nothing to undo: the change was made.
    ChangeWasMade,
}

fn try_undo(session: &Session<'_>, change: Change) -> Result<Undone, Error> {
    let number = change.number();
    // The thread that carries the command out may not have finished yet.
    session.settle()?;
    let snapshot = Snapshot::read(&session.agent)?;
    if snapshot.prepared == Some(number) {
        let answer = session.command(Command::Abandon, [number, 0])?;
        return answer.done(session.pid()).map(|_| Undone::Yes);
    }
    match snapshot.transition.filter(|open| open.number == number) {
        // It leads back already: the agent has begun to undo the change, or a reversal has failed
        // before it began.
        Some(open) if open.to_patched != change.to_patched() && !open.canceled => {
            if !matches!(change, Change::Reverse { .. }) {
                proceed(session, &open)?;
            }
        }
        Some(open) if open.canceled => complete(session, open.number)?,
        Some(open) => {
            let back = Change::Reverse {
                number,
                to_patched: !open.to_patched,
            };
            let begun = begin(session, back)?;
            if begun.waiting > 0 {
                try_complete(session, number, begun.check)?;
            }
        }
        None => {
            let patch = snapshot.patches.iter().find(|it| it.number == number);
            let is_enabled = patch.is_some_and(|it| it.state == PatchPhase::Enabled);
            if is_enabled == change.to_patched() {
                return Ok(Undone::ChangeWasMade);
            }
        }
    }
    Ok(Undone::Yes)
}
