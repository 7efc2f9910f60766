//! Threads switch: at the start of a transition, one by one after it, and back.

use alloc::vec::Vec;

use super::lists::Livepatch;
use crate::dispatch::door::Door;
use crate::model::ThreadRecord;
use crate::terms::grow;
use crate::{
    BlockedThread, Error, Event, PatchId, PatchState, Refusal, ThreadId, Transition, World,
};

impl Livepatch {
    /// Starts the transition: all threads switch at one instant, also those that are created later,
    /// except those in `blocked`, which keep the universe that they are in. All threads are
    /// stopped, and `blocked` names all that are not clear of what [`leaving`](Self::leaving) lists
    /// (0 for all that have no thread pointer). A thread may be named more than once, and also if
    /// it is in the target universe already. Returns how many have yet to switch; when none,
    /// [`complete`](Self::complete) can follow.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotInTransition`], [`Refusal::Canceled`], [`Refusal::AlreadyStarted`],
    /// [`Refusal::OutOfMemory`], [`Error::Threads`]: no thread has switched. Threads may then run
    /// on, and `start` may be called again later, after another check of the stacks.
    pub fn start<W: World>(
        &mut self,
        world: &mut W,
        patch: PatchId,
        blocked: &[BlockedThread],
    ) -> Result<usize, Error<W::Error>> {
        let transition = self.movable(patch)?;
        if transition.is_started() {
            return Err(Refusal::AlreadyStarted(patch).into());
        }
        let listed = transition.listed(blocked)?;
        let mut threads = Vec::new();
        for it in &listed {
            let (thread, state) = (it.thread, it.state);
            grow::push(&mut threads, ThreadRecord { thread, state })?;
        }
        transition.move_others(world, listed.into_iter())?;
        transition.threads = threads;
        transition.others_moved();
        world.event(Event::Starting(patch, transition.target));
        Ok(transition.waiting().count())
    }

    /// Switches a thread that is stopped, and clear now. Returns how many have yet to switch. Does
    /// nothing for a thread that is in the target already.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotInTransition`], [`Refusal::NotStarted`], [`Error::Threads`]: the thread has
    /// not switched.
    pub fn switch_thread<W: World>(
        &mut self,
        world: &mut W,
        patch: PatchId,
        thread: ThreadId,
    ) -> Result<usize, Error<W::Error>> {
        let transition = self.transition_of(patch)?;
        if !transition.is_started() {
            return Err(Refusal::NotStarted(patch).into());
        }
        transition.join_others(world, thread)?;
        transition.note_switched(world);
        Ok(transition.waiting().count())
    }

    /// Notes which threads have switched by themselves, at their doors. Returns how many have yet
    /// to switch: 0 without a transition, and before it has started.
    pub fn note_switched<W: World>(&mut self, world: &mut W) -> usize {
        let Some(transition) = &mut self.transition else {
            return 0;
        };
        transition.note_switched(world);
        transition.waiting().count()
    }

    /// Gives a door to a blocked thread that is held: it may switch by itself from now on.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotInTransition`], [`Refusal::NotStarted`].
    pub fn set_door<W: World>(
        &mut self,
        world: &mut W,
        patch: PatchId,
        thread: ThreadId,
        door: &Door,
    ) -> Result<usize, Refusal> {
        let transition = self.transition_of(patch)?;
        if !transition.is_started() {
            return Err(Refusal::NotStarted(patch));
        }
        transition.note_switched(world);
        if door.is_sound()
            && thread != ThreadId(0)
            && transition.thread_state(thread) != transition.others
        {
            world.set_door(thread, door);
        }
        Ok(transition.waiting().count())
    }

    /// A thread has ended, and no other with the same thread pointer is left. A new thread that
    /// gets the same thread pointer counts as unknown. Returns how many have yet to switch.
    ///
    /// # Errors
    ///
    /// [`Error::Threads`]: the thread is still known, and still blocked if it was.
    pub fn thread_exited<W: World>(
        &mut self,
        world: &mut W,
        thread: ThreadId,
    ) -> Result<usize, Error<W::Error>> {
        let Some(transition) = &mut self.transition else {
            return Ok(0);
        };
        transition.join_others(world, thread)?;
        transition.note_switched(world);
        Ok(transition.waiting().count())
    }

    /// Reverses the transition of `patch`, towards `target`. Every thread stays in the universe
    /// that it is in. Threads that never switched are no longer blocked; for the others
    /// [`start`](Self::start) has to be called, after a check against what the new target leaves.
    /// If the transition had not started, no thread has to switch back, and it counts as started
    /// towards the other side at once. (The kernel does all this for a write to `enabled` during
    /// the patch's transition.)
    ///
    /// # Errors
    ///
    /// [`Refusal::NotInTransition`], [`Refusal::AlreadyHeading`], [`Refusal::Canceled`],
    /// [`Error::Site`]: the transition is as it was; after [`Error::Site`], sites that sent all
    /// threads to one body may choose by thread again, which makes no difference.
    pub fn reverse<W: World>(
        &mut self,
        world: &mut W,
        patch: PatchId,
        target: PatchState,
    ) -> Result<(), Error<W::Error>> {
        if self.movable(patch)?.target == target {
            return Err(Refusal::AlreadyHeading(patch).into());
        }
        // Completing may have been tried, and may have failed after some sites.
        self.split_sites(world, patch)?;
        let transition = self.movable(patch)?;
        // From here on no thread leaves the universe that is to be kept.
        transition.shut_doors(world);
        transition.target = target;
        let started = transition.is_started();
        world.event(Event::Reversing(patch, target));
        if started {
            world.event(Event::Starting(patch, target));
        }
        if let Some(patch) = self.patches.iter_mut().find(|it| it.id() == patch) {
            patch.enabled = target == PatchState::Patched;
        }
        Ok(())
    }

    /// Declares all threads switched, wherever they are. Code that they may still be inside of is
    /// never released: the patch that leaves, or the patches that are replaced, can never be
    /// enabled again.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotInTransition`]; [`Refusal::Canceled`], no thread is blocked then;
    /// [`Error::Threads`]: threads that have switched stay so, and `force` can be called again for
    /// the rest.
    pub fn force<W: World>(
        &mut self,
        world: &mut W,
        patch: PatchId,
    ) -> Result<(), Error<W::Error>> {
        let transition = self.movable(patch)?;
        let target = transition.target;
        transition.note_switched(world);
        let first = transition.waiting().next();
        if !transition.is_started() {
            // The world may list threads from a start that failed. They switch, too.
            transition.move_others(world, transition.threads.iter().map(ThreadRecord::listed))?;
            transition.others_moved();
            world.event(Event::Starting(patch, target));
        } else if let Some(first) = first {
            transition.join_others(world, first)?;
        }
        // From here on a thread may be inside code that it should have left.
        transition.forced = true;
        world.event(Event::Forcing(patch, target));
        loop {
            let next = transition.waiting().next();
            let Some(next) = next else { return Ok(()) };
            transition.join_others(world, next)?;
        }
    }

    fn transition_of(&mut self, patch: PatchId) -> Result<&mut Transition, Refusal> {
        self.transition
            .as_mut()
            .filter(|transition| transition.patch == patch)
            .ok_or(Refusal::NotInTransition(patch))
    }

    /// The transition of `patch`, if it can still go either way.
    fn movable(&mut self, patch: PatchId) -> Result<&mut Transition, Refusal> {
        match self.transition_of(patch)? {
            transition if transition.canceled => Err(Refusal::Canceled(patch)),
            transition => Ok(transition),
        }
    }
}
