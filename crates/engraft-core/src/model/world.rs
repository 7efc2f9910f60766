//! The world, as the model sees it.

use crate::dispatch::ListedThread;
use crate::dispatch::door::Door;
use crate::{
    Callback, CallbackScope, Event, LinkAddress, ModuleId, ObjectId, PatchId, PatchState,
    SiteTarget, StateId, ThreadId, Trouble,
};

/// Everything that the model can do. One implementation acts on a process, others record.
///
/// Calls that return a `Result` may fail at any time; the model undoes what it has done. A call
/// must not call back into the [`Livepatch`](crate::Livepatch) that makes it.
///
/// A loader can unmap a module without notice. Until
/// [`module_gone`](crate::Livepatch::module_gone) says so, calls for that module have to fail; they
/// must not crash.
pub trait World {
    /// Why the world could not do something.
    type Error;

    /// Gets the new code of an object ready for a module: checks the old code, maps and fills the
    /// image, relocates it. Nothing runs it yet.
    ///
    /// After an error the model calls [`release_object`](Self::release_object) all the same, so
    /// that there is one place that undoes, whether the work was finished or half done.
    fn prepare_object(&mut self, object: ObjectId, module: ModuleId) -> Result<(), Self::Error>;

    /// Undoes [`prepare_object`](Self::prepare_object). Nothing can run the code any more. An
    /// error comes back through [`report`](Self::report); the model forgets the image either way.
    fn release_object(&mut self, object: ObjectId, module: ModuleId) -> Result<(), Self::Error>;

    /// The model is done with the patch, all its objects are released: what was kept for it can
    /// go, its id may be used again. Never called for a patch that was forced out.
    fn release_patch(&mut self, patch: PatchId);

    /// The last patch that had the state is gone: frees the shadow variables of that id.
    fn release_state(&mut self, patch: PatchId, state: StateId);

    /// Runs a callback. Only an error of `PrePatch` has a consequence, others are reported.
    fn callback(&mut self, callback: Callback, scope: CallbackScope) -> Result<(), Self::Error>;

    /// Makes calls of the old function at `function` go to `target`. On an error the site must
    /// behave as it did before.
    fn write_site(
        &mut self,
        module: ModuleId,
        function: LinkAddress,
        target: SiteTarget,
    ) -> Result<(), Self::Error>;

    /// Each of `threads` is in the state given with it, all others are in `others`, also those that
    /// are yet to be born. Called when a transition opens, without `threads`, before any site
    /// dispatches by thread. Called again when it is about to start: then everybody, listed or not,
    /// is in that state already, and no thread's state may change at any instant, because threads
    /// may be running. Those that have a door may switch by themselves, once the others have moved.
    /// On an error the states must be as before.
    fn open_transition(
        &mut self,
        others: PatchState,
        threads: &mut dyn Iterator<Item = ListedThread>,
    ) -> Result<(), Self::Error>;

    /// A transition starts: everybody whom the last [`open_transition`](Self::open_transition) did
    /// not list is in `state` from now on, all at one instant.
    ///
    /// The model calls this because somebody has looked at all stacks. It may be carried out only
    /// while everybody is still held as they were then; otherwise it has to fail. On an error
    /// nobody has moved.
    fn switch_others(&mut self, state: PatchState) -> Result<(), Self::Error>;

    /// Where a thread is that was listed: it may have switched by itself. `None` if that is not
    /// known; it is where it was then.
    fn thread_state(&mut self, thread: ThreadId) -> Option<PatchState>;

    /// From now on a thread that was listed does not switch by itself any more. Where it is, as
    /// [`thread_state`](Self::thread_state) says it.
    fn shut_door(&mut self, thread: ThreadId) -> Option<PatchState>;

    /// A thread that was listed, and is held and inside, may switch by itself: the world notes its
    /// door, in the place of the one that it may have.
    fn set_door(&mut self, thread: ThreadId, door: &Door);

    /// One thread that was listed is in `state` from now on, which is where the others are: it is
    /// clear and held, or has ended, or is forced. Its door is shut. On an error it has not moved.
    fn switch_thread(&mut self, thread: ThreadId, state: PatchState) -> Result<(), Self::Error>;

    /// The transition is over, no site dispatches by thread any more.
    fn close_transition(&mut self);

    /// Notes a step.
    fn event(&mut self, event: Event);

    /// Notes a failure that does not change the outcome but must not be lost.
    fn report(&mut self, trouble: Trouble, error: Self::Error);
}
