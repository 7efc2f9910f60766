//! The log of a patch's life: the kernel's `livepatch:` lines, in its order, as data.

use crate::{LinkAddress, ModuleId, ObjectId, PatchId, PatchState, StateId};

/// One step. The texts in quotes are the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// "enabling patch".
    Enabling(PatchId),
    /// "initializing patching/unpatching transition".
    Initializing(PatchId, PatchState),
    /// A callback is about to run.
    Calling(Callback, CallbackScope),
    /// "pre-patch callback failed for object".
    PrePatchFailed(CallbackScope),
    /// "failed to patch object": the site of this function could not be written.
    PatchObjectFailed(ObjectId, ModuleId, LinkAddress),
    /// "failed to enable patch".
    EnableFailed(PatchId),
    /// "canceling patching transition, going to unpatch".
    Canceling(PatchId),
    /// "starting patching/unpatching transition": threads have been let go. Until then it may take
    /// several tries, which are not logged.
    Starting(PatchId, PatchState),
    /// "reversing transition from the other state to this one".
    Reversing(PatchId, PatchState),
    /// "forcing remaining tasks to the patched/unpatched state".
    Forcing(PatchId, PatchState),
    /// "completing patching/unpatching transition".
    Completing(PatchId, PatchState),
    /// "patching/unpatching complete".
    Complete(PatchId, PatchState),
    /// "failed to initialize patch for module".
    InitializeFailed(PatchId, ModuleId),
    /// "applying patch to loading module".
    Applying(PatchId, ModuleId),
    /// "patch failed for module, refusing to load module".
    Refusing(PatchId, ModuleId),
    /// "reverting patch on unloading module".
    Reverting(PatchId, ModuleId),
    /// The module was found gone; what the patch had there is forgotten, no callback runs. Has no
    /// counterpart in the kernel, which no module leaves unseen.
    Forgetting(PatchId, ModuleId),
    /// The patch is no longer listed (its directory in sysfs goes away): disabled, replaced or
    /// never enabled.
    Removed(PatchId),
}

/// The moments at which a patch's author can have code run (`klp_callbacks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Callback {
    /// Before the object is patched; the only one that may fail.
    PrePatch,
    /// After the transition to the patched state.
    PostPatch,
    /// Before the object is unpatched.
    PreUnpatch,
    /// After the transition to the unpatched state.
    PostUnpatch,
}

/// What a callback is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallbackScope {
    /// A module of one of the patch's objects.
    Object(ObjectId, ModuleId),
    /// A state of the patch.
    State(PatchId, StateId),
}
