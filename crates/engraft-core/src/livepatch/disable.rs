//! Disabling: enabling backwards.

use super::callbacks::call_object;
use super::lists::Livepatch;
use super::states::call_states;
use crate::model::sync_site;
use crate::{Callback, Error, Event, PatchId, PatchState, Refusal, Transition, World};

impl Livepatch {
    /// Opens the transition back: its functions go where they went without `patch`, which may be
    /// anywhere in the list. All threads are stopped. Nobody switches until
    /// [`start`](Self::start).
    ///
    /// # Errors
    ///
    /// [`Refusal::NotEnabled`], [`Refusal::Busy`], [`Error::Threads`], [`Error::Site`]: nothing has
    /// changed; but if even a site could not be restored
    /// ([`Trouble::Cancel`](crate::Trouble::Cancel) was reported), the canceled transition is still
    /// open, no thread is blocked, and [`complete`](Self::complete) has to be called again.
    pub fn disable<W: World>(
        &mut self,
        world: &mut W,
        patch: PatchId,
    ) -> Result<(), Error<W::Error>> {
        self.patch(patch).ok_or(Refusal::NotEnabled(patch))?;
        self.check_idle()?;
        self.open_transition(world, Transition::new(patch, PatchState::Unpatched))?;
        if let Err(error) = self.split_sites(world, patch) {
            self.cancel(world);
            return Err(error);
        }
        world.event(Event::Initializing(patch, PatchState::Unpatched));
        self.pre_unpatch(world, patch);
        if let Some(patch) = self.patches.iter_mut().find(|it| it.id() == patch) {
            patch.enabled = false;
        }
        Ok(())
    }

    /// Makes the sites where the patch is on top choose by thread. Everyone is still in one
    /// universe, so nothing runs differently yet.
    pub(crate) fn split_sites<W: World>(
        &mut self,
        world: &mut W,
        patch: PatchId,
    ) -> Result<(), Error<W::Error>> {
        for module in &mut self.modules {
            let id = module.id();
            for site in &mut module.sites {
                sync_site(world, id, site, Some(patch), |_| true)
                    .map_err(|error| Error::Site(id, site.function(), error))?;
            }
        }
        Ok(())
    }

    fn pre_unpatch<W: World>(&mut self, world: &mut W, patch: PatchId) {
        let Some(it) = self.patch(patch) else { return };
        call_states(world, &self.patches, it, Callback::PreUnpatch);
        for object in it.objects() {
            for module in self
                .modules
                .iter()
                .filter(|it| it.build_id() == object.build_id())
            {
                call_object(world, module, it, Callback::PreUnpatch);
            }
        }
    }
}
