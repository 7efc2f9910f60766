//! The end of a transition, whichever way it went.

use super::callbacks::call_object;
use super::lists::{ForcedPatch, Livepatch};
use super::objects::{unbind, unbind_all};
use super::states::call_states;
use crate::model::{Entry, sync_site};
use crate::terms::grow;
use crate::{
    Callback, Error, Event, LinkAddress, Module, ModuleId, OutOfMemory, Patch, PatchId, PatchState,
    Refusal, Trouble, World,
};

/// How a transition ends.
#[derive(Clone, Copy)]
struct End {
    patch: PatchId,
    target: PatchState,
}

impl End {
    /// Whether `patch` leaves the list with it: the one that was disabled, or those that the one
    /// that was enabled replaces.
    fn dismisses(self, patches: &[Patch], patch: PatchId) -> bool {
        if self.target == PatchState::Unpatched {
            return patch == self.patch;
        }
        // Only older ones: the transition may be a disabling that was turned round, with newer
        // patches of the same set on top.
        let mut from = patches.iter().skip_while(|it| it.id() != patch);
        let Some(older) = from.next() else {
            return false;
        };
        from.any(|it| it.id() == self.patch && older.is_replaced_by(it))
    }

    /// Whether a func stays on its stack.
    fn keeps(self, patches: &[Patch], entry: Entry) -> bool {
        let patch = entry.func.patch;
        let discarded = entry.nop && patch == self.patch;
        !discarded && !self.dismisses(patches, patch)
    }
}

impl Livepatch {
    /// Ends the transition, once no thread is blocked: each site sends all threads to one body,
    /// what has left is released.
    ///
    /// What can fail comes first, and may be repeated: until all sites are written nothing else has
    /// changed. A site that is written already is right for everyone, because everyone has
    /// switched.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotInTransition`], [`Refusal::NotStarted`], [`Refusal::Waiting`],
    /// [`Refusal::OutOfMemory`], or [`Error::Site`], after which the transition is still open.
    pub fn complete<W: World>(
        &mut self,
        world: &mut W,
        patch: PatchId,
    ) -> Result<(), Error<W::Error>> {
        self.note_switched(world);
        let transition = self.transition.as_ref().filter(|it| it.patch() == patch);
        let transition = transition.ok_or(Refusal::NotInTransition(patch))?;
        let forced = transition.forced;
        if !transition.is_started() {
            return Err(Refusal::NotStarted(patch).into());
        }
        match transition.waiting().count() {
            0 => {}
            waiting => return Err(Refusal::Waiting(waiting).into()),
        }
        let end = End {
            patch,
            target: transition.target(),
        };
        if forced {
            let leaving = self.patches.len();
            self.forced
                .try_reserve(leaving)
                .map_err(OutOfMemory::from)?;
        }
        self.settle(world, end)?;
        self.finish(world, end);
        Ok(())
    }

    /// Takes back what could not be done. Nobody has switched, so it can be completed at once; if
    /// that fails, the transition stays open for another try.
    pub(crate) fn cancel<W: World>(&mut self, world: &mut W) {
        let Some(transition) = &mut self.transition else {
            return;
        };
        transition.cancel();
        let end = End {
            patch: transition.patch(),
            target: transition.target(),
        };
        match self.settle_parts(world, end) {
            Ok(()) => self.finish(world, end),
            Err((module, function, error)) => {
                world.report(Trouble::Cancel(module, function), error);
            }
        }
    }

    fn settle<W: World>(&mut self, world: &mut W, end: End) -> Result<(), Error<W::Error>> {
        self.settle_parts(world, end)
            .map_err(|(module, function, error)| Error::Site(module, function, error))
    }

    /// Writes all sites as they have to be when the transition is over.
    fn settle_parts<W: World>(
        &mut self,
        world: &mut W,
        end: End,
    ) -> Result<(), (ModuleId, LinkAddress, W::Error)> {
        let Self {
            patches, modules, ..
        } = self;
        for module in modules {
            let id = module.id();
            for site in &mut module.sites {
                sync_site(world, id, site, None, |entry| end.keeps(patches, entry))
                    .map_err(|error| (id, site.function(), error))?;
            }
        }
        Ok(())
    }

    /// The part that cannot fail.
    fn finish<W: World>(&mut self, world: &mut W, end: End) {
        let Some(transition) = self.transition.take() else {
            return;
        };
        world.close_transition();
        for module in &mut self.modules {
            module.retain_funcs(|entry| end.keeps(&self.patches, entry));
        }
        let (patch, target) = (end.patch, end.target);
        if transition.canceled && target == PatchState::Patched {
            // Disabling failed before anyone was told of it.
            return;
        }
        world.event(Event::Completing(patch, target));
        self.post_callbacks(world, patch, target);
        world.event(Event::Complete(patch, target));
        self.dismiss(world, end, transition.forced);
    }

    fn post_callbacks<W: World>(&self, world: &mut W, patch: PatchId, target: PatchState) {
        let Some(it) = self.patch(patch) else { return };
        let callback = match target {
            PatchState::Patched => Callback::PostPatch,
            PatchState::Unpatched => Callback::PostUnpatch,
        };
        call_states(world, &self.patches, it, callback);
        for object in it.objects() {
            for module in self
                .modules
                .iter()
                .filter(|it| it.build_id() == object.build_id())
            {
                call_object(world, module, it, callback);
            }
        }
    }

    /// Takes what has left off the list, and releases it unless threads may still be inside.
    fn dismiss<W: World>(&mut self, world: &mut W, end: End, forced: bool) {
        while let Some(patch) = self.take_dismissed(end) {
            if forced {
                abandon_images(&mut self.modules, &patch);
                world.event(Event::Removed(patch.id()));
                // `complete` made the room, and a canceled transition is never forced.
                grow::push_reserved(&mut self.forced, ForcedPatch::of(patch));
            } else {
                unbind_all(world, &mut self.modules, &patch);
                world.event(Event::Removed(patch.id()));
                world.release_patch(patch.id());
            }
        }
        if end.target == PatchState::Patched {
            self.discard_nops(world, end.patch);
        }
    }

    fn take_dismissed(&mut self, end: End) -> Option<Patch> {
        let mut ids = self.patches.iter().map(Patch::id);
        let id = ids.find(|id| end.dismisses(&self.patches, *id))?;
        self.patches.extract_if(.., |patch| patch.id() == id).next()
    }

    fn discard_nops<W: World>(&mut self, world: &mut W, patch: PatchId) {
        let Some(patch) = self.patches.iter_mut().find(|it| it.id() == patch) else {
            return;
        };
        let is_dynamic = |module: &&mut Module| {
            patch
                .object(module.build_id())
                .is_some_and(|(_, object)| object.is_dynamic())
        };
        for module in self.modules.iter_mut().filter(is_dynamic) {
            unbind(world, module, patch);
        }
        patch.discard_nops();
    }
}

/// Takes a patch's images out of its hands, without releasing them: a thread may be inside. They
/// are released with their modules, which must not be unloaded under a thread that is inside,
/// either.
fn abandon_images(modules: &mut [Module], patch: &Patch) {
    for module in modules {
        let object = patch.object(module.build_id());
        if object.is_some_and(|(_, object)| object.is_dynamic()) {
            module
                .bindings
                .retain(|binding| binding.object.patch != patch.id());
        } else if let Some(binding) = module.binding_mut(patch.id()) {
            binding.pre_patched = false;
        }
    }
}
