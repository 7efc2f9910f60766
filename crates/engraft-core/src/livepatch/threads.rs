//! Threads switch: at the start of a transition, one by one after it, and back.

use alloc::vec::Vec;

use super::lists::Livepatch;
use crate::dispatch::door::Door;
use crate::model::ThreadRecord;
use crate::terms::grow;
use crate::{Behind, Error, Event, PatchId, PatchState, Refusal, ThreadId, Transition, World};

impl Livepatch {
    /// Lets threads go: everybody switches at one instant, also threads that are yet to be born,
    /// except those in `behind`, which keep the universe that they are in. All threads are stopped,
    /// and `behind` names all that are not clear of what [`leaving`](Self::leaving) lists (0 for all
    /// that have no thread pointer; a thread may be named more than once, and one that is in the
    /// target universe already may be named, too). Returns how many have yet to switch; when none,
    /// [`complete`](Self::complete) can follow.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotInTransition`], [`Refusal::Canceled`], [`Refusal::AlreadyStarted`],
    /// [`Refusal::OutOfMemory`], [`Error::Threads`]: nobody has switched. Threads may run on then,
    /// and `start` be called again later, with what is seen of the stacks by then.
    pub fn start<W: World>(
        &mut self,
        world: &mut W,
        patch: PatchId,
        behind: &[Behind],
    ) -> Result<usize, Error<W::Error>> {
        let transition = self.movable(patch)?;
        if transition.is_started() {
            return Err(Refusal::AlreadyStarted(patch).into());
        }
        let listed = transition.listed(behind)?;
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

    /// Switches a thread that is stopped, and clear now. Returns how many have yet to switch. A
    /// thread that nobody waits for is where it should be.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotInTransition`], [`Refusal::NotStarted`], [`Error::Threads`]: the thread has not
    /// switched.
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

    /// Takes note of threads that have switched by themselves, at their doors. Returns how many have
    /// yet to switch; none before the transition has started, or without one.
    pub fn note_switched<W: World>(&mut self, world: &mut W) -> usize {
        let Some(transition) = &mut self.transition else {
            return 0;
        };
        transition.note_switched(world);
        transition.waiting().count()
    }

    /// A thread that stayed behind is held and inside, and may switch by itself from now on.
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

    /// A thread has ended, and no other with the same thread pointer is left. Should its thread
    /// pointer be given to a new thread, that one counts as unknown. Returns how many have yet to
    /// switch.
    ///
    /// # Errors
    ///
    /// [`Error::Threads`]: the thread is still known, and waited for if it was.
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

    /// Turns the transition of `patch` round, towards `target`. Everybody stays in the universe that
    /// they are in: those who never switched are no longer waited for, and for the others
    /// [`start`](Self::start) has to be called, with what must not be left for the new target. Only
    /// if the transition had not started, there is nobody to let go: it counts as started towards
    /// the other side at once. (The kernel does all this for a write to `enabled` during the patch's
    /// transition.)
    ///
    /// # Errors
    ///
    /// [`Refusal::NotInTransition`], [`Refusal::AlreadyHeading`], [`Refusal::Canceled`],
    /// [`Error::Site`]: the transition goes on as it did; after the last, sites that sent everyone
    /// to one place may choose by thread again, which makes no difference.
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
        // From here on nobody leaves the universe that is to be kept.
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

    /// Declares all threads switched, wherever they are. What they may still be inside of is never
    /// released: the patch that leaves, or those that are replaced, can never come again.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotInTransition`]; [`Refusal::Canceled`], nobody waits then; [`Error::Threads`]:
    /// those that have switched stay so, and it can be called again for the rest.
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
            // The world may have threads listed from a start that failed. They are let go, too.
            transition.move_others(world, transition.threads.iter().map(ThreadRecord::listed))?;
            transition.others_moved();
            world.event(Event::Starting(patch, target));
        } else if let Some(first) = first {
            transition.join_others(world, first)?;
        }
        // From here on somebody may be inside of what they should have left.
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
