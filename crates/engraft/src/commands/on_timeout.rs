//! The option `--on-timeout`: what happens to a transition that is not complete when the time is
//! up.

use std::time::Duration;

use engraft_process::Process;

use super::disable::disable;
use crate::error::Error;

/// How long to wait until all threads have switched back. A command ends at most one second after
/// its timeout.
const REVERSE_TIMEOUT: Duration = Duration::from_millis(700);

/// What happens to a transition to a patch that is not complete when the time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnTimeout {
    /// The transition stays open: all other threads have switched.
    #[default]
    Leave,
    /// The transition is reversed.
    Reverse,
}

impl OnTimeout {
    /// Does what was asked for after `error` of a command that enables a patch. Returns the error
    /// to report.
    pub fn settle(self, process: &Process, name: &str, error: Error) -> Error {
        match error {
            // Only the transition of this patch. (The open one may be of another patch.)
            Error::InTransition {
                name: ref open,
                to_patched: true,
                ..
            } if self == Self::Reverse && open == name => Error::Reversed {
                unfinished: disable(process, name, REVERSE_TIMEOUT).err().map(Box::new),
                source: error.into(),
            },
            error => error,
        }
    }
}
