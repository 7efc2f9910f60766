//! The driver's side of the words: the table of listed threads.

use core::sync::atomic::{AtomicU64, Ordering};

use super::door::Door;
use super::word::Word;
use super::words::{DOOR, OTHERS, ThreadSlot, TransitionWords, decode, encode, find, probe};
use crate::{PatchState, ThreadId};

/// A thread with an entry of its own in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedThread {
    /// Which one.
    pub thread: ThreadId,
    /// The universe that it is in.
    pub state: PatchState,
    /// How it may switch by itself.
    pub door: Option<Door>,
}

/// The table has no free slot. No thread's state has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TableFull;

/// Closes the door that a state word may have; the state.
fn shut<A: Word>(word: &A) -> Option<PatchState> {
    // ORDERING: Acquire; the peer is the thread itself in `pass`.
    let mut state = word.load(Ordering::Acquire);
    while state & DOOR != 0 {
        // ORDERING: Release, as in `ThreadTable::open`; Acquire on failure, as above.
        match word.compare_exchange(state, state & !DOOR, Ordering::Release) {
            Ok(_) => break,
            Err(changed) => state = changed,
        }
    }
    decode(state)
}

/// The driver's side of the states. Only one driver uses it at a time.
#[derive(Debug)]
pub struct ThreadTable<'words, A = AtomicU64> {
    /// For threads that are not in the table.
    pub transition: &'words TransitionWords<A>,
    /// The table.
    pub slots: &'words [ThreadSlot<A>],
}

impl<'words, A: Word> ThreadTable<'words, A> {
    /// Opens a transition, while no site chooses yet, or prepares its start: lists `threads` in the
    /// states given with them; all other threads are in `others`.
    ///
    /// When it prepares a start, every thread is in the given state already, whether it was listed
    /// before or not, and `threads` names all that are not in `others`. Then no thread's state
    /// changes at any instant.
    ///
    /// # Errors
    ///
    /// [`TableFull`]: every thread's state is what it was.
    pub fn open(
        &self,
        others: PatchState,
        threads: impl Iterator<Item = ListedThread>,
    ) -> Result<(), TableFull> {
        self.forget_others();
        let mut anonymous = OTHERS;
        for listed in threads {
            match listed.thread {
                ThreadId(0) => anonymous = encode(listed.state),
                ThreadId(thread) => self.insert(thread, listed.state, listed.door)?,
            }
        }
        // ORDERING: Release, so that a thread that sees these also sees how the transition before
        // left the sites; the peer is `thread_state`.
        self.transition
            .anonymous
            .store(anonymous, Ordering::Release);
        self.transition
            .others
            .store(encode(others), Ordering::Release);
        Ok(())
    }

    /// Moves all threads that are not listed, also those that are created later, at this instant.
    pub fn switch_others(&self, state: PatchState) {
        // ORDERING: Release, as in `open`.
        self.transition
            .others
            .store(encode(state), Ordering::Release);
    }

    /// Moves one thread. A thread that is not listed is in that state already.
    pub fn switch(&self, thread: ThreadId, state: PatchState) {
        if self.shut(thread).is_some()
            && let Some(word) = self.state_word(thread)
        {
            // ORDERING: Release, as in `open`. The thread itself is outside of all code that the
            // two states differ in, so it does not matter when it sees this.
            word.store(encode(state), Ordering::Release);
        }
    }

    /// The state of a listed thread. While its door is open it may switch at any time.
    pub fn state(&self, thread: ThreadId) -> Option<PatchState> {
        // ORDERING: Acquire; the peer is the thread itself in `pass`.
        decode(self.state_word(thread)?.load(Ordering::Acquire))
    }

    /// Closes the door of a listed thread, which then no longer switches by itself. Returns its
    /// state.
    pub fn shut(&self, thread: ThreadId) -> Option<PatchState> {
        shut(self.state_word(thread)?)
    }

    /// Opens a door for a listed thread that is held outside of `dispatch`; the new door replaces
    /// an earlier one. A thread in the others' state needs none. Returns whether the thread has a
    /// door now: a door that the thread has closed stays closed in this transition.
    pub fn set_door(&self, thread: ThreadId, door: &Door) -> bool {
        // ORDERING: Relaxed, only the one writer is here.
        let others = decode(self.transition.others.load(Ordering::Relaxed));
        let Some(state) = self.shut(thread).filter(|state| Some(*state) != others) else {
            return false;
        };
        let (ThreadId(1..), Some(slot)) = (thread, find(self.slots, thread.0)) else {
            return false;
        };
        // The walk of this stack has not seen what the thread has left on another one.
        if slot.door.is_closed() {
            return false;
        }
        slot.door.write(door);
        // ORDERING: Release, so that the thread sees the door's words; the peer is `own_state`.
        slot.state.store(encode(state) | DOOR, Ordering::Release);
        true
    }

    /// The state word of a thread. `None` if it has none of its own: it is not listed, and is in
    /// the others' state.
    pub fn state_word(&self, thread: ThreadId) -> Option<&'words A> {
        let word = match thread {
            ThreadId(0) => &self.transition.anonymous,
            ThreadId(thread) => &find(self.slots, thread)?.state,
        };
        // ORDERING: Relaxed, only the one writer is here.
        (word.load(Ordering::Relaxed) != OTHERS).then_some(word)
    }

    /// Empties the table. No site chooses any more.
    pub fn close(&self) {
        // ORDERING: Release, as for the slots.
        self.transition.anonymous.store(OTHERS, Ordering::Release);
        for slot in self.slots {
            // ORDERING: Release, so that a thread which misses its slot sees that the sites no
            // longer choose when it reads its site again; the peer is `find`.
            slot.thread.store(0, Ordering::Release);
            slot.state.store(OTHERS, Ordering::Release);
        }
    }

    /// Takes threads that are in the others' state out of the table: some of them may have ended,
    /// and new threads may get their thread pointers. Changes no thread's state.
    fn forget_others(&self) {
        // ORDERING: Relaxed, only the one writer is here.
        let others = self.transition.others.load(Ordering::Relaxed);
        for slot in self.slots {
            if slot.state.load(Ordering::Relaxed) & !DOOR == others {
                // ORDERING: Release, as in `open`.
                slot.state.store(OTHERS, Ordering::Release);
            }
        }
    }

    /// Lists all that `smaller` lists, each in the state that it has there. For a table that will
    /// replace `smaller` and that no thread can see yet.
    ///
    /// # Errors
    ///
    /// [`TableFull`].
    pub fn copy(&self, smaller: &[ThreadSlot<A>]) -> Result<(), TableFull> {
        for slot in smaller {
            // ORDERING: Relaxed, only the one writer is here.
            let thread = slot.thread.load(Ordering::Relaxed);
            // A thread may sleep in `dispatch` with the address of the old slot: it must not switch
            // there.
            if let Some(state) = shut(&slot.state) {
                self.insert(thread, state, None)?;
            }
        }
        Ok(())
    }

    fn insert(&self, thread: u64, state: PatchState, door: Option<Door>) -> Result<(), TableFull> {
        for slot in probe(self.slots, thread) {
            // ORDERING: Relaxed, only the one writer is here.
            let key = slot.thread.load(Ordering::Relaxed);
            if key == 0 || key == thread {
                // ORDERING: Release, as in `open`. The state comes first, so that no key is ever
                // seen without its thread's state; but a free slot says `OTHERS`, which is where a
                // thread is that is not listed yet.
                slot.state.store(encode(state), Ordering::Release);
                slot.door.reset();
                if let Some(door) = door {
                    slot.door.write(&door);
                    slot.state.store(encode(state) | DOOR, Ordering::Release);
                }
                slot.thread.store(thread, Ordering::Release);
                return Ok(());
            }
        }
        Err(TableFull)
    }
}
