//! What a patch asks for, as its author wrote it.

use alloc::vec::Vec;

use crate::{BuildId, Callback, LinkAddress, StateId};

/// A patch as it is handed over to be enabled.
///
/// Sets, `replace`, states and callbacks cannot be reached by users yet: no patch file carries
/// them.
#[cfg_attr(feature = "controls", derive(Clone))]
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct PatchDefinition {
    /// Unique among the enabled patches: the same name again is the same patch again.
    pub name: Vec<u8>,
    /// The set that the patch belongs to; the empty name is the set of all patches that name none.
    /// Patches of one set may change the same functions and stack in the order in which they were
    /// enabled. Two sets never share a function or a state, so they cannot get in each other's way.
    pub set: Vec<u8>,
    /// Whether all older patches of the set leave, at one instant for each thread, when this patch
    /// comes. With one set for all patches this is the kernel's `klp_patch::replace`.
    pub replace: bool,
    /// What is changed, object by object, in the order in which callbacks run.
    pub objects: Vec<ObjectDefinition>,
    /// The states that the patch brings or takes over.
    pub states: Vec<StateDefinition>,
}

/// The functions of one ELF file that a patch changes.
#[cfg_attr(feature = "controls", derive(Clone))]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ObjectDefinition {
    /// The file.
    pub build_id: BuildId,
    /// The old functions, each once. May be empty: an object can exist for its callbacks alone.
    pub funcs: Vec<LinkAddress>,
    /// The callbacks that the patch has for each module of the object.
    pub callbacks: Callbacks,
}

/// A change to the process's state or data that outlives single patches.
#[cfg_attr(feature = "controls", derive(Clone))]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct StateDefinition {
    /// What names the state among all patches.
    pub id: StateId,
    /// What the patch can deal with: this version and all before it.
    pub version: u32,
    /// Run when the first enabled patch brings the state and when the last one that has it is
    /// disabled; not when a patch takes the state over from another.
    pub callbacks: Callbacks,
    /// Whether shadow variables whose id is the state's belong to it and are freed when it leaves.
    pub shadow: bool,
}

/// Which callbacks exist. An absent one counts as one that succeeded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Callbacks {
    /// May veto: the patch is then not enabled, or the module not loaded.
    pub pre_patch: bool,
    /// After all threads have switched to the patched code.
    pub post_patch: bool,
    /// Before threads begin to switch back.
    pub pre_unpatch: bool,
    /// After all threads have switched back; only if `pre_patch` succeeded.
    pub post_unpatch: bool,
}

impl Callbacks {
    /// All four.
    pub const ALL: Self = Self {
        pre_patch: true,
        post_patch: true,
        pre_unpatch: true,
        post_unpatch: true,
    };

    /// Whether this one exists.
    pub const fn has(self, callback: Callback) -> bool {
        match callback {
            Callback::PrePatch => self.pre_patch,
            Callback::PostPatch => self.post_patch,
            Callback::PreUnpatch => self.pre_unpatch,
            Callback::PostUnpatch => self.post_unpatch,
        }
    }
}
