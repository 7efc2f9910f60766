//! Whether a patch fits those that are enabled: names, sets, functions, states.

use super::lists::Livepatch;
use crate::{LinkAddress, Patch, PatchDefinition, PatchId, Refusal};

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
}
