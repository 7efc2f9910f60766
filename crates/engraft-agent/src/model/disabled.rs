//! Disabled patches. No site leads to their code, but they are kept, as the kernel keeps a disabled
//! patch's module: new code may have passed on addresses of its constants and variables. A disabled
//! patch can be enabled again from what was kept. It can be removed when the controller has seen
//! that no thread refers to its memory.

use alloc::vec::Vec;

use engraft_abi::Outcome;
use engraft_core::PatchId;

use crate::model::agent::{Agent, definition};
use crate::model::ranges::push_inside;
use crate::patch::payloads::Payload;
use crate::system::control::Answer;
use crate::system::failure::Failure;

impl Agent {
    /// Prepares a disabled patch for all modules that are alive; nothing runs it yet.
    pub(crate) fn prepare_again(&mut self, patch: PatchId) -> Answer {
        let payload = self.disabled_payload(patch)?;
        if let Some(known) = self.enabled(payload.name()) {
            return Ok((Outcome::AlreadyThere, known.0.into()));
        }
        let definition = definition(payload)?;
        self.host.prepare_unwinders()?;
        let prepared = self.core.prepare(&mut self.host, patch, definition);
        prepared.map_err(|error| self.describe(error))?;
        Ok((Outcome::Done, patch.0.into()))
    }

    /// Lists the memory that [`Self::remove`] would unmap.
    pub(crate) fn plan_removal(&mut self, patch: PatchId) -> Answer {
        let name = self.disabled_payload(patch)?.name();
        let (mut data, mut code) = (Vec::new(), Vec::new());
        for placed in &self.host.images {
            let image = &placed.image;
            if placed.object.patch == patch && !image.escapes() {
                // The exact start of a range usually counts as clear: it is the address of a
                // function that has not begun. Here it is a pointer like any other.
                push_inside(&mut code, image.code(), name)?;
                push_inside(
                    &mut data,
                    image.code().end..image.base + image.length(),
                    name,
                )?;
            }
        }
        (self.ranges, self.sites) = (data, code);
        Ok((Outcome::Done, patch.0.into()))
    }

    /// Unmaps the memory of a disabled patch and forgets it, except images whose addresses the
    /// program may hold. All threads are stopped, and none refers to the memory. After a failure it
    /// can be tried again.
    pub(crate) fn remove(&mut self, patch: PatchId) -> Answer {
        self.disabled_payload(patch)?;
        let mut stays = 0;
        let images = &mut self.host.images;
        while let Some(index) = images
            .iter()
            .position(|placed| placed.object.patch == patch)
        {
            if let Some(placed) = images.get(index) {
                placed.release()?;
            }
            let image = images.swap_remove(index).image;
            if image.escapes() {
                stays += image.length();
            }
        }
        self.host.payloads.remove(patch)?;
        Ok((Outcome::Done, stays))
    }

    /// The payload of a patch that is neither enabled nor about to be.
    fn disabled_payload(&self, patch: PatchId) -> Result<&Payload, Failure> {
        let prepared = self.core.prepared().map(engraft_core::Patch::id);
        if self.core.patch(patch).is_some() || prepared == Some(patch) {
            let text = b"the patch is enabled, or about to be";
            return Err(Failure::new(Outcome::NotAllowed, text));
        }
        if self.core.forced().any(|(forced, _)| forced == patch) {
            let text = b"the patch was forced out: threads may be inside its code for ever";
            return Err(Failure::new(Outcome::NotAllowed, text));
        }
        let mut known = self.host.disabled(&self.core);
        known
            .find(|payload| payload.patch() == patch)
            .ok_or_else(|| Failure::new(Outcome::NoSuchPatch, b"the patch has been removed"))
    }
}
