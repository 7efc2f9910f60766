//! Reversing a transition: the threads that have switched switch back.

use std::time::Duration;

use super::change::Change;
use super::perform::perform;
use crate::agent::snapshot::OpenTransition;
use crate::error::Error;
use crate::session::Session;

/// Reverses a transition, and waits until every thread has switched back. Returns how long the
/// threads were stopped to begin that.
pub(crate) fn reverse(session: &Session<'_>, open: &OpenTransition) -> Result<Duration, Error> {
    let change = Change::Reverse {
        number: open.number,
        to_patched: !open.to_patched,
    };
    perform(session, change)
}
