//! What can be wrong with a request, and what can go wrong in the world.

use alloc::collections::TryReserveError;

use crate::{BuildId, CallbackScope, LinkAddress, ModuleId, ObjectId, PatchId, StateId};

/// Why a request was not carried out. `E` is the world's own reason.
///
/// Unless a variant or a method says otherwise, nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error<E> {
    /// The request itself makes no sense now.
    Refused(Refusal),
    /// The world could not get an object's new code ready for a module.
    Prepare(ObjectId, ModuleId, E),
    /// A `pre_patch` callback vetoed.
    PrePatch(CallbackScope, E),
    /// A site could not be written.
    Site(ModuleId, LinkAddress, E),
    /// The world could not make the threads' states known to dispatch.
    Threads(PatchId, E),
}

impl<E> From<Refusal> for Error<E> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl<E> From<OutOfMemory> for Error<E> {
    fn from(_: OutOfMemory) -> Self {
        Self::Refused(Refusal::OutOfMemory)
    }
}

/// Why a request makes no sense now. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No memory to note the request down.
    OutOfMemory,
    /// The patch is enabled already, or is being enabled (EEXIST).
    AlreadyEnabled(PatchId),
    /// The id belongs to another patch.
    PatchIdInUse(PatchId),
    /// A patch of this name was forced out; its code stays for ever, so it cannot come again.
    Forced(PatchId),
    /// No such patch is enabled.
    NotEnabled(PatchId),
    /// The patch was not prepared.
    NotPrepared(PatchId),
    /// Another patch is being enabled or disabled; one at a time (EBUSY).
    Busy(PatchId),
    /// The patch is not in a transition.
    NotInTransition(PatchId),
    /// The transition already goes the way that it should be turned to.
    AlreadyHeading(PatchId),
    /// The transition only undoes a patch that could not be enabled or disabled.
    Canceled(PatchId),
    /// The transition has not started: no thread has switched yet.
    NotStarted(PatchId),
    /// The transition has started already; blocked threads switch one by one.
    AlreadyStarted(PatchId),
    /// Threads have yet to switch.
    Waiting(usize),
    /// The patch names no object.
    NoObjects,
    /// The patch names one object twice.
    DuplicateObject(BuildId),
    /// The patch names one function twice.
    DuplicateFunction(BuildId, LinkAddress),
    /// The patch names one state twice.
    DuplicateState(StateId),
    /// A patch of another set already changes the function.
    FunctionOfAnotherSet(PatchId, BuildId, LinkAddress),
    /// A patch of another set already has the state.
    StateOfAnotherSet(PatchId, StateId),
    /// The patch would replace one that has a state which it does not know.
    UnknownState(PatchId, StateId),
    /// An enabled patch has a newer version of the state.
    OlderState {
        /// The enabled patch.
        patch: PatchId,
        /// The state.
        state: StateId,
        /// What the enabled patch has.
        installed: u32,
        /// What the new patch has.
        offered: u32,
    },
    /// A module that runs already can be taken in only before the first patch.
    PatchesExist(PatchId),
    /// The module is known already.
    ModuleExists(ModuleId),
    /// No such module, or it is not in a state that fits.
    NoSuchModule(ModuleId),
    /// Objects or functions are too many to be numbered.
    TooLarge,
}

impl From<OutOfMemory> for Refusal {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// What went wrong without changing the outcome; see [`World::report`](crate::World::report).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// A callback that cannot veto failed.
    Callback(crate::Callback, CallbackScope),
    /// An object's image could not be released; it stays where it is.
    Release(ObjectId, ModuleId),
    /// A site of a module that is about to be unmapped could not be restored.
    Site(ModuleId, LinkAddress),
    /// Cancelling could not restore a site. The transition stays open until
    /// [`complete`](crate::Livepatch::complete) succeeds.
    Cancel(ModuleId, LinkAddress),
}

/// A list could not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OutOfMemory;

impl From<TryReserveError> for OutOfMemory {
    fn from(_: TryReserveError) -> Self {
        Self
    }
}
