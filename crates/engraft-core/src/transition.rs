//! The transition: threads move from one universe to the other, most of them at one instant, the
//! rest one by one.
//!
//! Whoever stops the threads and looks at their stacks can be killed at any instant, and then all
//! threads run on, while the call that the model carries out finishes all the same. So what was seen
//! of a stack holds only until the one word is written that moves everybody who is clear; that this
//! is done while everybody is still held is the world's business, and if it cannot be done, nobody
//! has moved. Beginning and starting are therefore two steps: [`Livepatch::begin`],
//! [`disable`](Livepatch::disable) and [`reverse`](Livepatch::reverse) move nobody, and
//! [`Livepatch::start`] can be tried until it succeeds, each time with fresh looks at the stacks.

use alloc::vec::Vec;

use crate::dispatch::Listed;
use crate::door::Door;
use crate::{Error, Event, Livepatch, OutOfMemory, PatchId, Refusal, ThreadId, World, grow};

/// Which universe a thread is in, for the patch in transition (`task_struct::patch_state`; its
/// third value, "idle", is the absence of a transition here).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PatchState {
    /// Runs what there was without the patch.
    Unpatched,
    /// Runs what the patch brings.
    Patched,
}

impl PatchState {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Unpatched => Self::Patched,
            Self::Patched => Self::Unpatched,
        }
    }
}

/// A thread that is not where the others are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ThreadRecord {
    thread: ThreadId,
    state: PatchState,
}

/// A thread that is not clear when threads are let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// Which one.
    pub thread: ThreadId,
    /// How it may switch by itself. Only where no other thread has its thread pointer, its whole
    /// stack was walked, and neither it nor a signal handler of it has interrupted dispatch.
    pub door: Option<Door>,
}

impl From<ThreadId> for Behind {
    fn from(thread: ThreadId) -> Self {
        Self { thread, door: None }
    }
}

/// A transition. There is at most one at a time.
///
/// | `others`    | `is_started` | threads with a record          | complete |
/// |-------------|--------------|--------------------------------|----------|
/// | not target  | no           | are in the target already      | no       |
/// | target      | yes          | have yet to switch             | if none  |
///
/// A transition opens in the first row, with no records. [`Livepatch::start`] goes from the first to
/// the second; [`Livepatch::reverse`] exchanges the two, because it is the target that changes and
/// nobody's universe.
#[cfg_attr(feature = "controls", derive(Clone))]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Transition {
    patch: PatchId,
    target: PatchState,
    /// The universe of everybody without a record, also of threads that are yet to be born: their
    /// stacks are empty, so they can begin in either.
    others: PatchState,
    /// Sorted by thread, each once, none of them in `others`.
    threads: Vec<ThreadRecord>,
    pub(crate) forced: bool,
    pub(crate) canceled: bool,
}

impl Transition {
    /// Everybody begins in the universe that is to be left.
    pub(crate) const fn new(patch: PatchId, target: PatchState) -> Self {
        Self {
            patch,
            target,
            others: target.other(),
            threads: Vec::new(),
            forced: false,
            canceled: false,
        }
    }

    /// The patch.
    pub const fn patch(&self) -> PatchId {
        self.patch
    }

    /// Where it leads.
    pub const fn target(&self) -> PatchState {
        self.target
    }

    /// The universe of all threads that have no record of their own, and of those yet to be born.
    pub const fn others(&self) -> PatchState {
        self.others
    }

    /// Whether threads have been let go: from then on it waits only for those that stayed behind.
    pub fn is_started(&self) -> bool {
        self.others == self.target
    }

    /// Whether it only undoes what could not be done, and cannot be turned round.
    pub const fn is_canceled(&self) -> bool {
        self.canceled
    }

    /// The threads that stayed behind and have yet to switch. None before the transition has
    /// [started](Self::is_started): until then it waits for everybody.
    pub fn waiting(&self) -> impl Iterator<Item = ThreadId> + '_ {
        let waiting = self
            .threads
            .iter()
            .filter(|record| record.state != self.target);
        waiting.map(|record| record.thread)
    }

    /// The universe that a thread is in.
    pub fn thread_state(&self, thread: ThreadId) -> PatchState {
        let found = self
            .threads
            .binary_search_by_key(&thread, |record| record.thread);
        let record = found.ok().and_then(|index| self.threads.get(index));
        record.map_or(self.others, |record| record.state)
    }

    /// The threads that are not where [`others`](Self::others) are, and where they are instead;
    /// sorted, each once.
    pub fn exceptions(&self) -> impl Iterator<Item = (ThreadId, PatchState)> + '_ {
        let records = self.threads.iter();
        records.map(|record| (record.thread, record.state))
    }

    /// What has to be listed so that the others can move and nobody else does: the threads that are
    /// elsewhere already, and those that stay behind, each where it is.
    fn listed(&self, behind: &[Behind]) -> Result<Vec<Listed>, OutOfMemory> {
        let mut listed = Vec::new();
        for record in &self.threads {
            grow::push(&mut listed, record.listed())?;
        }
        for it in behind {
            let it = Listed {
                thread: it.thread,
                state: self.thread_state(it.thread),
                door: it.door.filter(Door::is_sound),
            };
            grow::push(&mut listed, it)?;
        }
        listed.sort_unstable_by_key(|it| it.thread);
        // Threads that cannot be told apart have no door: all of them would switch, when only one has
        // left. Nor has one that is in the target already.
        listed.dedup_by(|again, first| {
            let same = again.thread == first.thread;
            if same {
                first.door = None;
            }
            same
        });
        for it in &mut listed {
            if it.thread == ThreadId(0) || it.state != self.others {
                it.door = None;
            }
        }
        Ok(listed)
    }

    /// Moves everybody who is not in `listed` to the target; those who have a door follow by themselves. On an error nobody has moved; the world
    /// may have more threads listed than have a record, all of them where they are anyway.
    fn move_others<W: World>(
        &self,
        world: &mut W,
        listed: impl Iterator<Item = Listed>,
    ) -> Result<(), Error<W::Error>> {
        let mut listed = listed;
        world
            .open_transition(self.others, &mut listed)
            .and_then(|()| world.switch_others(self.target))
            .map_err(|error| Error::Threads(self.patch, error))
    }

    /// The others have moved. Records of threads that were there before them are of no use any more.
    fn others_moved(&mut self) {
        self.others = self.target;
        let others = self.others;
        self.threads.retain(|record| record.state != others);
    }

    /// Takes note of threads that have switched by themselves. Before the others have moved nobody does.
    fn note_switched<W: World>(&mut self, world: &mut W) {
        if self.is_started() {
            let others = self.others;
            self.threads
                .retain(|record| world.thread_state(record.thread) != Some(others));
        }
    }

    /// The same, and nobody does any more.
    fn shut_doors<W: World>(&mut self, world: &mut W) {
        let (others, started) = (self.others, self.is_started());
        self.threads.retain(|record| {
            let state = world.shut_door(record.thread);
            !started || state != Some(others)
        });
    }

    /// Puts one thread where the others are.
    fn join_others<W: World>(
        &mut self,
        world: &mut W,
        thread: ThreadId,
    ) -> Result<(), Error<W::Error>> {
        if self.thread_state(thread) != self.others {
            world.shut_door(thread);
            world
                .switch_thread(thread, self.others)
                .map_err(|error| Error::Threads(self.patch, error))?;
            self.threads.retain(|record| record.thread != thread);
        }
        Ok(())
    }

    /// Nothing was patched, so everyone is in the universe that is to be restored.
    pub(crate) fn cancel(&mut self) {
        self.target = self.target.other();
        self.canceled = true;
    }
}

impl ThreadRecord {
    const fn listed(&self) -> Listed {
        Listed {
            thread: self.thread,
            state: self.state,
            door: None,
        }
    }
}

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
