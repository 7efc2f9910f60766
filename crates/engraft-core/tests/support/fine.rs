//! The simplest world.

#![allow(
    unreachable_pub,
    clippy::allow_attributes,
    reason = "a module of several tests"
)]

use engraft_core::dispatch::ListedThread;
use engraft_core::door::Door;
use engraft_core::{
    Callback, CallbackScope, Event, LinkAddress, ModuleId, ObjectId, PatchId, PatchState,
    SiteTarget, StateId, ThreadId, Trouble, World,
};

/// A world in which all goes well, and that needs no memory.
pub struct Fine;

impl World for Fine {
    type Error = ();

    fn prepare_object(&mut self, _: ObjectId, _: ModuleId) -> Result<(), ()> {
        Ok(())
    }

    fn release_object(&mut self, _: ObjectId, _: ModuleId) -> Result<(), ()> {
        Ok(())
    }

    fn release_patch(&mut self, _: PatchId) {}

    fn release_state(&mut self, _: PatchId, _: StateId) {}

    fn callback(&mut self, _: Callback, _: CallbackScope) -> Result<(), ()> {
        Ok(())
    }

    fn write_site(&mut self, _: ModuleId, _: LinkAddress, _: SiteTarget) -> Result<(), ()> {
        Ok(())
    }

    fn open_transition(
        &mut self,
        _: PatchState,
        _: &mut dyn Iterator<Item = ListedThread>,
    ) -> Result<(), ()> {
        Ok(())
    }

    fn switch_others(&mut self, _: PatchState) -> Result<(), ()> {
        Ok(())
    }

    fn switch_thread(&mut self, _: ThreadId, _: PatchState) -> Result<(), ()> {
        Ok(())
    }

    fn thread_state(&mut self, _: ThreadId) -> Option<PatchState> {
        None
    }

    fn shut_door(&mut self, _: ThreadId) -> Option<PatchState> {
        None
    }

    fn set_door(&mut self, _: ThreadId, _: &Door) {}

    fn close_transition(&mut self) {}

    fn event(&mut self, _: Event) {}

    fn report(&mut self, _: Trouble, (): ()) {}
}
