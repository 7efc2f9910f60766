//! Hints: what the user can do about an error.

use engraft_abi::Outcome;
use engraft_process::{MemoryScanError, OpenError, StopError};

use crate::error::Error;

impl Error {
    /// What the user can do about the error, if there is something.
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
            Self::Reversed {
                unfinished: None, ..
            } => "try again when the thread is elsewhere, or wait longer with --timeout",
            Self::OtherTransition { source, .. } => return source.hint(),
            Self::ContextRefers { .. } => {
                "the patch stays disabled and in memory; try again when the program has finished what is suspended, \
                 wait longer with --timeout, or do not look with --scan-memory=off, at the risk of a crash"
            }
            Self::MemoryScan(MemoryScanError::TimedOut { .. }) => {
                "give more time with --timeout, or do not look with --scan-memory=off"
            }
            Self::InTransition {
                inside: Some(inside),
                ..
            } if inside.is_blocked_by_context() => {
                "no thread switches while a context is suspended inside, since any may go on with it; \
                 `engraft wait` goes on waiting, `engraft status` says where, `engraft force` ends it"
            }
            Self::InTransition { .. } | Self::Reversed { .. } => {
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
