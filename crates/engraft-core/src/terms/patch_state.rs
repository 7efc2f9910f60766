//! The two universes of a transition.

/// Which universe a thread is in, for the patch in transition (`task_struct::patch_state`; its
/// third value, "idle", is the absence of a transition here).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PatchState {
    /// Runs what there was without the patch.
    Unpatched,
    /// Runs what the patch brings.
    Patched,
}

impl PatchState {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Unpatched => Self::Patched,
            Self::Patched => Self::Unpatched,
        }
    }
}
