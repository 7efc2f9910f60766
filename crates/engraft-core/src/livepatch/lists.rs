//! All of one process's live patching.

use alloc::vec::Vec;

use crate::{
    FuncId, FuncState, Module, ModuleId, ObjectId, Patch, PatchId, PatchState, Refusal, Transition,
};

/// The patches, modules and transition of one process.
///
/// Its owner calls it under one lock (`klp_mutex`): enabling, disabling, modules coming and
/// going never overlap.
///
/// # Enabling
///
/// 1. [`prepare`](Self::prepare) binds the patch to all modules that are alive, while the process
///    runs. Only one patch at a time may be prepared and not yet begun.
/// 2. [`begin`](Self::begin) patches the modules and opens the transition. Nobody switches yet.
/// 3. [`start`](Self::start) switches all threads that are clear; it can be tried until it
///    succeeds.
/// 4. [`switch_thread`](Self::switch_thread) for each thread that is found clear later.
/// 5. [`complete`](Self::complete) once no thread is blocked.
///
/// A module that comes between 1 and 2 gets all enabled patches, as ever, but not the prepared one,
/// which may still be abandoned; `begin` then finds a module that is alive and not bound,
/// and binds it. So no module is missed, none is done twice, and the order on its stacks is the
/// order of the list.
#[cfg_attr(feature = "controls", derive(Clone))]
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct Livepatch {
    /// In the order in which they were enabled, also those that are being disabled.
    pub(crate) patches: Vec<Patch>,
    /// Prepared, not begun.
    pub(crate) prepared: Option<Patch>,
    pub(crate) modules: Vec<Module>,
    pub(crate) transition: Option<Transition>,
    /// Forced out; their code stays.
    pub(crate) forced: Vec<ForcedPatch>,
    #[cfg(feature = "controls")]
    bind_by_name: bool,
}

/// What is remembered of a patch whose code can never be released.
#[cfg_attr(feature = "controls", derive(Clone))]
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct ForcedPatch {
    pub(crate) id: PatchId,
    pub(crate) name: Vec<u8>,
}

impl ForcedPatch {
    pub(crate) fn of(patch: Patch) -> Self {
        Self {
            id: patch.id(),
            name: patch.into_name(),
        }
    }
}

impl Livepatch {
    /// No patches, no modules.
    pub const fn new() -> Self {
        Self {
            patches: Vec::new(),
            prepared: None,
            modules: Vec::new(),
            transition: None,
            forced: Vec::new(),
            #[cfg(feature = "controls")]
            bind_by_name: false,
        }
    }

    /// Breaks the rule that a patch binds to a module only if it is alive: as before 2015, being
    /// visible is enough. For the control that shows what the rule is for.
    #[cfg(feature = "controls")]
    #[doc(hidden)]
    pub fn binding_by_name() -> Self {
        Self {
            bind_by_name: true,
            ..Self::new()
        }
    }

    /// Whether a new patch binds to a module.
    pub(crate) const fn may_bind(&self) -> fn(&Module) -> bool {
        #[cfg(feature = "controls")]
        if self.bind_by_name {
            return |_| true;
        }
        Module::is_alive
    }

    /// The enabled patches, oldest first. The position plus one is the kernel's `stack_order`.
    pub fn patches(&self) -> &[Patch] {
        &self.patches
    }

    /// The patch that is prepared and not begun.
    pub const fn prepared(&self) -> Option<&Patch> {
        self.prepared.as_ref()
    }

    /// The modules, in the order in which they became known.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The transition that is on.
    pub const fn transition(&self) -> Option<&Transition> {
        self.transition.as_ref()
    }

    /// Patches that were forced out.
    pub fn forced(&self) -> impl Iterator<Item = (PatchId, &[u8])> + '_ {
        self.forced
            .iter()
            .map(|patch| (patch.id, patch.name.as_slice()))
    }

    /// An enabled patch.
    pub fn patch(&self, patch: PatchId) -> Option<&Patch> {
        self.patches.iter().find(|it| it.id() == patch)
    }

    /// A module.
    pub fn module(&self, module: ModuleId) -> Option<&Module> {
        self.modules.iter().find(|it| it.id() == module)
    }

    /// What a func does in a module.
    pub fn func_state(&self, func: FuncId, module: ModuleId) -> FuncState {
        let sites = self.module(module).map(Module::sites).unwrap_or_default();
        let patched = sites
            .iter()
            .any(|site| site.func_stack().any(|it| it == func));
        match (patched, self.transition_patch() == Some(func.patch)) {
            (false, false) => FuncState::Unpatched,
            (false, true) => FuncState::Applying,
            (true, true) => FuncState::InTransition,
            (true, false) => FuncState::Patched,
        }
    }

    /// Whether a patch's object is bound to a live module (`/sys/.../patch/object/patched`).
    pub fn is_object_patched(&self, object: ObjectId) -> bool {
        let mut bindings = self.modules.iter().flat_map(Module::bindings);
        bindings.any(|binding| binding.object == object && binding.pre_patched)
    }

    pub(crate) fn transition_patch(&self) -> Option<PatchId> {
        self.transition.as_ref().map(Transition::patch)
    }

    /// The patch that threads may differ in. After a disabling that was canceled they do not, even
    /// while a site is still to be restored: for modules that come and go the patch is enabled.
    pub(crate) fn moving_patch(&self) -> Option<PatchId> {
        let stays = |it: &&Transition| it.is_canceled() && it.target() == PatchState::Patched;
        self.transition
            .as_ref()
            .filter(|it| !stays(it))
            .map(Transition::patch)
    }

    /// One at a time: the patch that is in the way of another's enabling or disabling.
    pub(crate) fn check_idle(&self) -> Result<(), Refusal> {
        let prepared = self.prepared.as_ref().map(Patch::id);
        self.transition_patch()
            .or(prepared)
            .map_or(Ok(()), |patch| Err(Refusal::Busy(patch)))
    }
}
