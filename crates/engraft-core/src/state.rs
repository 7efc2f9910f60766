//! Whether a patch fits those that are enabled: names, sets, functions, states.

use crate::livepatch::call;
use crate::{
    Callback, CallbackScope, Error, Event, LinkAddress, Livepatch, Patch, PatchDefinition, PatchId,
    Refusal, StateDefinition, World,
};

/// A definition that contradicts itself.
fn check_definition(definition: &PatchDefinition) -> Result<(), Refusal> {
    if definition.objects.is_empty() {
        return Err(Refusal::NoObjects);
    }
    u32::try_from(definition.objects.len()).map_err(|_| Refusal::TooLarge)?;
    for (index, object) in definition.objects.iter().enumerate() {
        let mut before = definition.objects.iter().take(index);
        if before.any(|other| other.build_id == object.build_id) {
            return Err(Refusal::DuplicateObject(object.build_id));
        }
        u32::try_from(object.funcs.len()).map_err(|_| Refusal::TooLarge)?;
        if let Some(function) = duplicate(&object.funcs) {
            return Err(Refusal::DuplicateFunction(object.build_id, function));
        }
    }
    for (index, state) in definition.states.iter().enumerate() {
        let mut before = definition.states.iter().take(index);
        if before.any(|other| other.id == state.id) {
            return Err(Refusal::DuplicateState(state.id));
        }
    }
    Ok(())
}

fn duplicate(functions: &[LinkAddress]) -> Option<LinkAddress> {
    let mut numbered = functions.iter().enumerate();
    numbered
        .find(|(index, function)| {
            functions
                .iter()
                .take(*index)
                .any(|other| other == *function)
        })
        .map(|(_, function)| *function)
}

/// Whether `definition` may be enabled on top of `old` (`klp_is_patch_compatible`, and sets).
fn check_against(definition: &PatchDefinition, old: &Patch) -> Result<(), Refusal> {
    if old.set() != definition.set {
        for object in &definition.objects {
            let mut functions = object.funcs.iter().copied();
            let shared = functions.find(|function| old.changes(object.build_id, *function));
            if let Some(function) = shared {
                return Err(Refusal::FunctionOfAnotherSet(
                    old.id(),
                    object.build_id,
                    function,
                ));
            }
        }
    }
    for state in &old.states {
        let state = &state.definition;
        let known = definition.states.iter().find(|new| new.id == state.id);
        match known {
            Some(_) if old.set() != definition.set => {
                return Err(Refusal::StateOfAnotherSet(old.id(), state.id));
            }
            Some(new) if new.version < state.version => {
                return Err(Refusal::OlderState {
                    patch: old.id(),
                    state: state.id,
                    installed: state.version,
                    offered: new.version,
                });
            }
            None if definition.replace && old.set() == definition.set => {
                return Err(Refusal::UnknownState(old.id(), state.id));
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

impl Livepatch {
    /// Everything that can be wrong with a new patch by itself or next to the enabled ones.
    pub(crate) fn check_new(
        &self,
        id: PatchId,
        definition: &PatchDefinition,
    ) -> Result<(), Refusal> {
        check_definition(definition)?;
        if let Some(same) = self
            .patches
            .iter()
            .find(|patch| patch.name() == definition.name)
        {
            return Err(Refusal::AlreadyEnabled(same.id()));
        }
        if let Some(same) = self
            .forced
            .iter()
            .find(|patch| patch.name == definition.name)
        {
            return Err(Refusal::Forced(same.id));
        }
        let mut ids = self.patches.iter().chain(&self.prepared).map(Patch::id);
        if ids.any(|other| other == id) || self.forced.iter().any(|patch| patch.id == id) {
            return Err(Refusal::PatchIdInUse(id));
        }
        self.patches
            .iter()
            .try_for_each(|old| check_against(definition, old))
    }

    /// The version in which a state is there now, if any enabled patch has it.
    pub fn state_version(&self, state: crate::StateId) -> Option<u32> {
        let states = self.patches.iter().flat_map(|patch| &patch.states);
        let same = states.filter(|it| it.definition.id == state);
        same.map(|it| it.definition.version).max()
    }

    /// Runs `pre_patch` for the states that a patch brings. A state that another enabled patch has
    /// is taken over in silence.
    pub(crate) fn pre_patch_states<W: World>(
        &mut self,
        world: &mut W,
        patch: PatchId,
    ) -> Result<(), Error<W::Error>> {
        let Some(index) = self.patches.iter().position(|it| it.id() == patch) else {
            return Ok(());
        };
        let (older, newest) = self.patches.split_at_mut(index);
        let Some(newest) = newest.first_mut() else {
            return Ok(());
        };
        for state in &mut newest.states {
            let definition = &state.definition;
            if !has_state(older, definition) {
                let scope = CallbackScope::State(patch, definition.id);
                if let Err(error) = call(world, definition.callbacks, Callback::PrePatch, scope) {
                    world.event(Event::PrePatchFailed(scope));
                    return Err(Error::PrePatch(scope, error));
                }
            }
            state.pre_patched = true;
        }
        Ok(())
    }
}

fn has_state(patches: &[Patch], state: &StateDefinition) -> bool {
    let mut states = patches.iter().flat_map(|patch| &patch.states);
    states.any(|other| other.definition.id == state.id)
}

/// Runs a callback that cannot veto for the states that no other patch has; when they leave for
/// good, frees what belongs to them.
pub(crate) fn call_states<W: World>(
    world: &mut W,
    patches: &[Patch],
    patch: &Patch,
    callback: Callback,
) {
    for state in &patch.states {
        let definition = &state.definition;
        let mut others = patches.iter().filter(|other| other.id() != patch.id());
        let shared = others.any(|other| has_state(core::slice::from_ref(other), definition));
        if shared || !state.pre_patched {
            continue;
        }
        let scope = CallbackScope::State(patch.id(), definition.id);
        crate::livepatch::call_and_report(world, definition.callbacks, callback, scope);
        if callback == Callback::PostUnpatch && definition.shadow {
            world.release_state(patch.id(), definition.id);
        }
    }
}
