//! The changes that move threads from one universe to the other.

use engraft_abi::Command;

/// A change that moves threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Enables the prepared patch with this number.
    Enable(u64),
    /// Disables the enabled patch with this number.
    Disable(u64),
    /// Starts a transition of this patch whose controller has died before any thread could switch.
    Start { number: u64, to_patched: bool },
    /// Reverses the transition of this patch: from now on it leads `to_patched`, or back.
    Reverse { number: u64, to_patched: bool },
}

impl Change {
    /// The number of the patch.
    pub(super) fn number(self) -> u64 {
        match self {
            Self::Enable(number)
            | Self::Disable(number)
            | Self::Start { number, .. }
            | Self::Reverse { number, .. } => number,
        }
    }

    /// Whether threads switch to the patch.
    pub(super) fn to_patched(self) -> bool {
        match self {
            Self::Enable(_) => true,
            Self::Disable(_) => false,
            Self::Start { to_patched, .. } | Self::Reverse { to_patched, .. } => to_patched,
        }
    }

    /// The agent's command for it.
    pub(super) fn command(self) -> Command {
        match self {
            Self::Enable(_) => Command::Enable,
            Self::Disable(_) => Command::Disable,
            Self::Start { .. } => Command::Start,
            Self::Reverse { .. } => Command::Reverse,
        }
    }
}
