//! What becomes of a change that is not over when its time is up.

use std::time::Duration;

use engraft_process::Process;

use super::disable::disable;
use crate::error::Error;

/// For how long the threads that have switched are waited for on their way back. A command ends a second after its time
/// at the latest.
const WAY_BACK: Duration = Duration::from_millis(700);

/// What becomes of a patch that threads have yet to switch to when the time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnTimeout {
    /// The transition stays open: all other threads have switched.
    #[default]
    Leave,
    /// The transition is turned round.
    Reverse,
}

impl OnTimeout {
    /// Settles a patch that was to be enabled in a process, which has failed so; the error to report.
    pub fn settle(self, process: &Process, name: &str, error: Error) -> Error {
        match error {
            // Not one that somebody else has begun, and which was only waited for.
            Error::InTransition {
                name: ref open,
                to_patched: true,
                ..
            } if self == Self::Reverse && open == name => Error::Reversed {
                left: disable(process, name, WAY_BACK).err().map(Box::new),
                source: error.into(),
            },
            error => error,
        }
    }
}
