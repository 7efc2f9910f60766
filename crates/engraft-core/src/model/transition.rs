//! The transition: threads move from one universe to the other, most of them at one instant, the
//! rest one by one.
//!
//! The controller stops the threads and checks their stacks, and can be killed at any instant. Then
//! all threads run on, while the agent finishes the call that it is in. So the result of a stack
//! check holds only while the threads are held, and it takes effect by one word, which moves all
//! threads that are clear. The world writes that word while the threads are held; if it cannot, no
//! thread has moved. Beginning and starting are therefore two steps: [`Livepatch::begin`],
//! [`disable`](Livepatch::disable) and [`reverse`](Livepatch::reverse) move no thread, and
//! [`Livepatch::start`] can be tried until it succeeds, each time after a fresh check of the
//! stacks.

use alloc::vec::Vec;

use crate::dispatch::ListedThread;
use crate::dispatch::door::Door;
use crate::terms::grow;
use crate::{Error, OutOfMemory, PatchId, PatchState, ThreadId, World};

/// A thread that is not in the others' universe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ThreadRecord {
    pub(crate) thread: ThreadId,
    pub(crate) state: PatchState,
}

/// A thread that is blocked at the start of the transition: it is not clear of the old code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockedThread {
    /// The thread.
    pub thread: ThreadId,
    /// How it may switch by itself. Given only if no other thread has its thread pointer, its whole
    /// stack was walked, and neither the thread nor a signal handler that interrupted it is in
    /// dispatch.
    pub door: Option<Door>,
}

impl From<ThreadId> for BlockedThread {
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
/// A transition opens in the first row, with no records. [`Livepatch::start`] goes from the first
/// to the second; [`Livepatch::reverse`] exchanges the two, because it changes the target, and no
/// thread's universe.
#[cfg_attr(feature = "controls", derive(Clone))]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Transition {
    pub(crate) patch: PatchId,
    pub(crate) target: PatchState,
    /// The universe of all threads without a record, also of those that are created later: their
    /// stacks are empty, so they can begin in either.
    pub(crate) others: PatchState,
    /// Sorted by thread, each once, none of them in `others`.
    pub(crate) threads: Vec<ThreadRecord>,
    pub(crate) forced: bool,
    pub(crate) canceled: bool,
}

impl Transition {
    /// All threads begin in the universe that is to be left.
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

    /// The universe that it leads to.
    pub const fn target(&self) -> PatchState {
        self.target
    }

    /// The universe of all threads without a record of their own, also of those that are created
    /// later.
    pub const fn others(&self) -> PatchState {
        self.others
    }

    /// Whether it has started: from then on it waits only for blocked threads.
    pub fn is_started(&self) -> bool {
        self.others == self.target
    }

    /// Whether it only undoes what has failed, and cannot be reversed.
    pub const fn is_canceled(&self) -> bool {
        self.canceled
    }

    /// The blocked threads, which have yet to switch. None before the transition has
    /// [started](Self::is_started): until then it waits for all threads.
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

    /// The threads that are not in the universe of the [`others`](Self::others), each with its own;
    /// sorted, each once.
    pub fn exceptions(&self) -> impl Iterator<Item = (ThreadId, PatchState)> + '_ {
        let records = self.threads.iter();
        records.map(|record| (record.thread, record.state))
    }

    /// The threads that must be listed so that only the others move: those with a record, and the
    /// blocked ones, each in the universe that it is in.
    pub(crate) fn listed(
        &self,
        blocked: &[BlockedThread],
    ) -> Result<Vec<ListedThread>, OutOfMemory> {
        let records = self.threads.iter().map(|record| record.listed());
        let blocked = blocked.iter().map(|it| ListedThread {
            thread: it.thread,
            state: self.thread_state(it.thread),
            door: it.door.filter(Door::is_sound),
        });
        let mut listed = Vec::new();
        for it in records.chain(blocked) {
            grow::push(&mut listed, it)?;
            move_last_into_order(&mut listed);
        }
        // Threads with one thread pointer have no door: all of them would switch when only one has
        // left the old code. A thread that is in the target already has none either.
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

    /// Moves all threads that are not in `listed` to the target; listed threads with a door follow
    /// by themselves. After an error no thread has moved; the world may then list more threads than
    /// have a record, each in the universe that it is in anyway.
    pub(crate) fn move_others<W: World>(
        &self,
        world: &mut W,
        listed: impl Iterator<Item = ListedThread>,
    ) -> Result<(), Error<W::Error>> {
        let mut listed = listed;
        world
            .open_transition(self.others, &mut listed)
            .and_then(|()| world.switch_others(self.target))
            .map_err(|error| Error::Threads(self.patch, error))
    }

    /// Notes that the others have moved, and drops the records of threads that were in the target
    /// before.
    pub(crate) fn others_moved(&mut self) {
        self.others = self.target;
        let others = self.others;
        self.threads.retain(|record| record.state != others);
    }

    /// Drops the records of threads that have switched by themselves. Before the others have moved
    /// none does.
    pub(crate) fn note_switched<W: World>(&mut self, world: &mut W) {
        if self.is_started() {
            let others = self.others;
            self.threads
                .retain(|record| world.thread_state(record.thread) != Some(others));
        }
    }

    /// Closes all doors, so that no thread switches by itself any more, and drops the records of
    /// those that have.
    pub(crate) fn shut_doors<W: World>(&mut self, world: &mut W) {
        let (others, started) = (self.others, self.is_started());
        self.threads.retain(|record| {
            let state = world.shut_door(record.thread);
            !started || state != Some(others)
        });
    }

    /// Moves one thread to the others' universe.
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

    /// Turns back a transition in which nothing was patched: all threads are in the universe that
    /// is to be restored.
    pub(crate) fn cancel(&mut self) {
        self.target = self.target.other();
        self.canceled = true;
    }
}

impl ThreadRecord {
    pub(crate) const fn listed(&self) -> ListedThread {
        ListedThread {
            thread: self.thread,
            state: self.state,
            door: None,
        }
    }
}

/// Moves the last of these threads to its place; the others are in order.
///
/// The threads come in order nearly always, and then nothing is moved. The sorting of the standard
/// library is 2.4 KiB of code and 3.5 KiB of stack in every process that is patched.
fn move_last_into_order(listed: &mut [ListedThread]) {
    let mut end = listed.len();
    while let Some(start) = end.checked_sub(2)
        && let Some([before, last]) = listed.get_mut(start..end)
        && before.thread > last.thread
    {
        core::mem::swap(before, last);
        end -= 1;
    }
}
