//! States: which patch brings one, which takes it over, and with which patch it leaves.

use super::callbacks::{call, call_and_report};
use super::lists::Livepatch;
use crate::{
    Callback, CallbackScope, Error, Event, Patch, PatchId, StateDefinition, StateId, World,
};

impl Livepatch {
    /// The version in which a state is there now, if any enabled patch has it.
    pub fn state_version(&self, state: StateId) -> Option<u32> {
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
        call_and_report(world, definition.callbacks, callback, scope);
        if callback == Callback::PostUnpatch && definition.shadow {
            world.release_state(patch.id(), definition.id);
        }
    }
}
