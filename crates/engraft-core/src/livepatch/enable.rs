//! Enabling: prepare, then begin.

use super::lists::Livepatch;
use super::objects::{bind_all, patch_object, unbind_all};
use crate::terms::grow;
use crate::{
    Error, Event, Module, Patch, PatchDefinition, PatchId, PatchState, Refusal, Transition, World,
};

impl Livepatch {
    /// Gets a patch ready: checks it, and binds it to every module that is alive. Nothing runs
    /// differently yet. `patch` must not be in use.
    ///
    /// As in the kernel, what is wrong with the patch is found before "busy" is.
    ///
    /// # Errors
    ///
    /// A [`Refusal`], or [`Error::Prepare`]. Nothing has changed.
    pub fn prepare<W: World>(
        &mut self,
        world: &mut W,
        patch: PatchId,
        definition: PatchDefinition,
    ) -> Result<(), Error<W::Error>> {
        self.check_new(patch, &definition)?;
        let mut patch = Patch::new(patch, definition)?;
        for older in &self.patches {
            if older.is_replaced_by(&patch) {
                patch.add_nops(older)?;
            }
        }
        let bound = bind_all(world, self.may_bind(), &mut self.modules, &patch);
        if let Err(error) = bound.and_then(|()| Ok(self.check_idle()?)) {
            unbind_all(world, &mut self.modules, &patch);
            return Err(error);
        }
        self.prepared = Some(patch);
        Ok(())
    }

    /// Gives up a prepared patch.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotPrepared`].
    pub fn abandon<W: World>(&mut self, world: &mut W, patch: PatchId) -> Result<(), Refusal> {
        let prepared = self.take_prepared(patch)?;
        self.discard(world, &prepared);
        Ok(())
    }

    /// Enables a prepared patch: opens the transition, with all threads in the old universe, and
    /// patches all modules that are alive, now also those that came since. All threads are stopped.
    /// Nobody switches until [`start`](Self::start).
    ///
    /// # Errors
    ///
    /// [`Refusal::NotPrepared`], and nothing has changed. With every other error, the patch has
    /// left and everything is as before it was prepared; but if even a site could not be restored
    /// ([`Trouble::Cancel`](crate::Trouble::Cancel) was reported), the canceled transition is still
    /// open, no thread is blocked, and [`complete`](Self::complete) has to be called again.
    pub fn begin<W: World>(
        &mut self,
        world: &mut W,
        patch: PatchId,
    ) -> Result<(), Error<W::Error>> {
        let prepared = self.take_prepared(patch)?;
        if let Err(error) = self.open(world, &prepared) {
            self.transition = None;
            self.discard(world, &prepared);
            return Err(error);
        }
        // `open` made the room.
        grow::push_reserved(&mut self.patches, prepared);
        world.event(Event::Enabling(patch));
        world.event(Event::Initializing(patch, PatchState::Patched));
        if let Err(error) = self.patch_objects(world, patch) {
            world.event(Event::EnableFailed(patch));
            world.event(Event::Canceling(patch));
            self.cancel(world);
            return Err(error);
        }
        if let Some(patch) = self.patches.last_mut() {
            patch.enabled = true;
        }
        Ok(())
    }

    fn take_prepared(&mut self, patch: PatchId) -> Result<Patch, Refusal> {
        self.prepared
            .take_if(|prepared| prepared.id() == patch)
            .ok_or(Refusal::NotPrepared(patch))
    }

    /// Lets go of a patch that was never begun.
    fn discard<W: World>(&mut self, world: &mut W, patch: &Patch) {
        unbind_all(world, &mut self.modules, patch);
        world.release_patch(patch.id());
    }

    /// All that can fail before the patch is listed.
    fn open<W: World>(&mut self, world: &mut W, patch: &Patch) -> Result<(), Error<W::Error>> {
        self.patches
            .try_reserve(1)
            .map_err(crate::OutOfMemory::from)?;
        bind_all(world, self.may_bind(), &mut self.modules, patch)?;
        self.open_transition(world, Transition::new(patch.id(), PatchState::Patched))
    }

    pub(crate) fn open_transition<W: World>(
        &mut self,
        world: &mut W,
        transition: Transition,
    ) -> Result<(), Error<W::Error>> {
        world
            .open_transition(transition.others(), &mut core::iter::empty())
            .map_err(|error| Error::Threads(transition.patch(), error))?;
        self.transition = Some(transition);
        Ok(())
    }

    /// Object by object, in the patch's order: `pre_patch`, then its funcs. Stops at the first
    /// failure.
    fn patch_objects<W: World>(
        &mut self,
        world: &mut W,
        patch: PatchId,
    ) -> Result<(), Error<W::Error>> {
        self.pre_patch_states(world, patch)?;
        let Self {
            patches, modules, ..
        } = self;
        let Some(it) = patches.iter().find(|it| it.id() == patch) else {
            return Ok(());
        };
        for object in it.objects() {
            for module in of_object(modules, object.build_id()) {
                patch_object(world, module, it, Some(patch))?;
            }
        }
        Ok(())
    }
}

fn of_object(
    modules: &mut [Module],
    build_id: crate::BuildId,
) -> impl Iterator<Item = &mut Module> {
    modules
        .iter_mut()
        .filter(move |module| module.build_id() == build_id)
}
