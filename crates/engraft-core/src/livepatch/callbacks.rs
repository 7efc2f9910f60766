//! Callbacks, and what is told of them.

use crate::{Callback, CallbackScope, Callbacks, Event, Module, Patch, Trouble, World};

/// Runs a callback if it exists.
pub(crate) fn call<W: World>(
    world: &mut W,
    callbacks: Callbacks,
    callback: Callback,
    scope: CallbackScope,
) -> Result<(), W::Error> {
    if !callbacks.has(callback) {
        return Ok(());
    }
    world.event(Event::Calling(callback, scope));
    world.callback(callback, scope)
}

/// Runs a callback that cannot veto.
pub(crate) fn call_and_report<W: World>(
    world: &mut W,
    callbacks: Callbacks,
    callback: Callback,
    scope: CallbackScope,
) {
    if let Err(error) = call(world, callbacks, callback, scope) {
        world.report(Trouble::Callback(callback, scope), error);
    }
}

/// Runs a callback that cannot veto for a module, if it is owed: `post_unpatch` follows only a
/// `pre_patch` that succeeded.
pub(crate) fn call_object<W: World>(
    world: &mut W,
    module: &Module,
    patch: &Patch,
    callback: Callback,
) {
    let Some((id, object)) = patch.object(module.build_id()) else {
        return;
    };
    if module
        .binding(patch.id())
        .is_some_and(|binding| binding.pre_patched)
    {
        let scope = CallbackScope::Object(id, module.id());
        call_and_report(world, object.callbacks(), callback, scope);
    }
}
