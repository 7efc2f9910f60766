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
use crate::dispatch::door::Door;
use crate::terms::grow;
use crate::{Error, OutOfMemory, PatchId, PatchState, ThreadId, World};

/// A thread that is not where the others are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ThreadRecord {
    pub(crate) thread: ThreadId,
    pub(crate) state: PatchState,
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
    pub(crate) patch: PatchId,
    pub(crate) target: PatchState,
    /// The universe of everybody without a record, also of threads that are yet to be born: their
    /// stacks are empty, so they can begin in either.
    pub(crate) others: PatchState,
    /// Sorted by thread, each once, none of them in `others`.
    pub(crate) threads: Vec<ThreadRecord>,
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
    pub(crate) fn listed(&self, behind: &[Behind]) -> Result<Vec<Listed>, OutOfMemory> {
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
    pub(crate) fn move_others<W: World>(
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
    pub(crate) fn others_moved(&mut self) {
        self.others = self.target;
        let others = self.others;
        self.threads.retain(|record| record.state != others);
    }

    /// Takes note of threads that have switched by themselves. Before the others have moved nobody does.
    pub(crate) fn note_switched<W: World>(&mut self, world: &mut W) {
        if self.is_started() {
            let others = self.others;
            self.threads
                .retain(|record| world.thread_state(record.thread) != Some(others));
        }
    }

    /// The same, and nobody does any more.
    pub(crate) fn shut_doors<W: World>(&mut self, world: &mut W) {
        let (others, started) = (self.others, self.is_started());
        self.threads.retain(|record| {
            let state = world.shut_door(record.thread);
            !started || state != Some(others)
        });
    }

    /// Puts one thread where the others are.
    pub(crate) fn join_others<W: World>(
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
    pub(crate) const fn listed(&self) -> Listed {
        Listed {
            thread: self.thread,
            state: self.state,
            door: None,
        }
    }
}
