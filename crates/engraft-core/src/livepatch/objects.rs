//! One patch in one module: bound, patched, and neither any more.

use super::callbacks::call;
use crate::terms::grow;
use crate::{
    Binding, Callback, CallbackScope, Error, Event, Module, ModuleId, ObjectId, Patch, PatchId,
    Trouble, World,
};

/// Binds an object to a module, and gets its code ready. Does nothing if it is bound.
pub(crate) fn bind<W: World>(
    world: &mut W,
    module: &mut Module,
    patch: &Patch,
) -> Result<(), Error<W::Error>> {
    let Some((object, it)) = patch.object(module.build_id()) else {
        return Ok(());
    };
    if module.binding(patch.id()).is_some() {
        return Ok(());
    }
    grow::push(
        &mut module.bindings,
        Binding {
            object,
            pre_patched: false,
        },
    )?;
    if it.is_dynamic() {
        return Ok(());
    }
    let prepared = world.prepare_object(object, module.id());
    prepared.map_err(|error| {
        // Also undoes what the failing patch itself has done: the kernel forgets that.
        unbind(world, module, patch);
        Error::Prepare(object, module.id(), error)
    })
}

/// Undoes [`bind`].
pub(crate) fn unbind<W: World>(world: &mut W, module: &mut Module, patch: &Patch) {
    let Some((object, it)) = patch.object(module.build_id()) else {
        return;
    };
    if module.binding(patch.id()).is_none() {
        return;
    }
    module.bindings.retain(|binding| binding.object != object);
    if !it.is_dynamic() {
        release(world, object, module.id());
    }
}

pub(crate) fn release<W: World>(world: &mut W, object: ObjectId, module: ModuleId) {
    if let Err(error) = world.release_object(object, module) {
        world.report(Trouble::Release(object, module), error);
    }
}

/// Runs `pre_patch` for a module that an object is bound to, then patches it. On an error the funcs
/// that were patched stay so, for the caller to undo in its own way.
pub(crate) fn patch_object<W: World>(
    world: &mut W,
    module: &mut Module,
    patch: &Patch,
    transition: Option<PatchId>,
) -> Result<(), Error<W::Error>> {
    let Some((id, object)) = patch.object(module.build_id()) else {
        return Ok(());
    };
    let scope = CallbackScope::Object(id, module.id());
    let Some(binding) = module.binding_mut(patch.id()) else {
        return Ok(());
    };
    if let Err(error) = call(world, object.callbacks(), Callback::PrePatch, scope) {
        world.event(Event::PrePatchFailed(scope));
        return Err(Error::PrePatch(scope, error));
    }
    binding.pre_patched = true;
    for (function, entry) in object.entries(id) {
        if let Err(error) = module.push_func(world, function, entry, transition) {
            world.event(Event::PatchObjectFailed(id, module.id(), function));
            return Err(error);
        }
    }
    Ok(())
}

/// Binds a patch to every module that is alive, and to no other: one that is only mapped, or listed
/// by the loader, gets the patch with all others when it comes.
pub(crate) fn bind_all<W: World>(
    world: &mut W,
    may_bind: fn(&Module) -> bool,
    modules: &mut [Module],
    patch: &Patch,
) -> Result<(), Error<W::Error>> {
    let mut alive = modules.iter_mut().filter(|module| may_bind(module));
    alive.try_for_each(|module| bind(world, module, patch))
}

pub(crate) fn unbind_all<W: World>(world: &mut W, modules: &mut [Module], patch: &Patch) {
    for module in modules {
        unbind(world, module, patch);
    }
}
