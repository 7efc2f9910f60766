//! Where calls of an old function can go.

use crate::FuncId;

/// Code that can stand for an old function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The old function itself.
    Original,
    /// A patch's func.
    Func(FuncId),
}

/// Where a site sends its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SiteTarget {
    /// The function has its own bytes.
    Original,
    /// Everyone goes to one func.
    Direct(FuncId),
    /// Each thread goes where it belongs in the transition.
    Dispatch {
        /// For threads in [`PatchState::Unpatched`](crate::PatchState::Unpatched).
        old: Code,
        /// For threads in [`PatchState::Patched`](crate::PatchState::Patched).
        new: Code,
    },
}
