//! What the user can do about an error.

use engraft_abi::Outcome;
use engraft_process::{OpenError, StopError};

use crate::error::Error;

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Open(OpenError::PermissionDenied { .. })
            | Self::Stop(StopError::PermissionDenied { .. }) => {
                "run engraft as root or as the user that the process runs as"
            }
            Self::Open(OpenError::NoSuchProcess { .. }) => "list the processes with ps or pgrep",
            Self::WrongBuildId { .. } => {
                "build the patch from the source of the build that runs, with --binary naming its file"
            }
            Self::StillEnabled { .. } => "disable it first: `engraft disable NAME`",
            Self::PatchesLeft { .. } => {
                "take them out first: `engraft disable NAME`, then `engraft remove NAME`"
            }
            Self::ThreadInside { .. } | Self::ThreadRefers { .. } => {
                "try again when the thread is elsewhere, or wait longer with --timeout"
            }
            Self::TakenBack { left: None, .. } => {
                "try again when the thread is elsewhere, or wait longer with --timeout"
            }
            Self::HasToWait { source, .. } => return source.hint(),
            Self::InTransition { .. } | Self::TakenBack { .. } => {
                "all other threads have switched; `engraft wait` goes on waiting, `engraft status` names the \
                 threads, `engraft disable` or `engraft enable` turns back, `engraft force` ends it"
            }
            Self::LoaderBusy { .. } | Self::AnotherController { .. } => {
                "try again, or wait longer with --timeout"
            }
            Self::Agent {
                outcome: Outcome::CodeDiffers,
                ..
            } => {
                "the file was changed after it was built, or another tool has changed the code in memory"
            }
            Self::Agent {
                outcome: Outcome::NoSuchPatch,
                ..
            } => "`engraft status --pid PID` lists the patches",
            Self::AgentVersion { .. } => "use the engraft that applied the first patch",
            Self::Agent {
                outcome: Outcome::Broken,
                ..
            } => "the process runs on, but must be restarted before it can be patched again",
            _ => return None,
        })
    }
}
