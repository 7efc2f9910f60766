//! Dispatch: what runs on every call of a patched function while a transition is on.
//!
//! [`dispatch`] decides which body a call goes to. It may run in any thread at any instant, also in
//! a signal handler and while the process is being patched, so it takes no lock, allocates nothing
//! and cannot panic. It reads words that whoever drives the transition writes, one writer at a
//! time:
//!
//! - two for each site: the body that runs without the patch in transition, and the one with it;
//! - one for the transition: the state of all threads that are not in the table;
//! - a table of the threads that stay behind, or are ahead, when all others move;
//! - and one that says where the table is, which only the caller of `dispatch` knows.
//!
//! # Order
//!
//! A transition opens by writing the others' state first and the sites after, and closes by
//! writing the sites first and the states after. So whoever sees a site choose, sees states of that
//! transition, or of a later one. In the latter case the site has changed since; therefore a site
//! is read again after the state, and if it changed, all is read again. Otherwise a thread that was
//! born in one transition (nobody waited for it), got as far as reading a site, and slept until the
//! next one, would put the old site's words and the new transition's state together, and run what
//! the first transition has thrown away.
//!
//! A transition starts by listing threads, each in the state that it is in, and then moving the
//! others, by one store. Threads may run all the while, or the store may never come (the model then
//! has the transition as not started): listing changes nobody's state at any instant.
//!
//! # The door
//!
//! A thread that stays behind may have a [`Door`]: its state word says so, and the thread itself may
//! change that word then, in `dispatch`, by compare-and-swap: it switches to where the others are, or
//! closes the door. Whoever drives the transition closes the door before anything else happens to
//! the word ([`ThreadTable::shut`]), and from then on is its one writer again. A door is of no use
//! before the others have moved: a thread that comes before that closes it.
//!
//! A thread that is inside `dispatch` when the others move, or a handler of it has interrupted
//! `dispatch`, must get no door: it may have words of an earlier one in its registers.
//!
//! From the decision to the end of the body, the thread is inside code that the stack check knows:
//! whoever drives the transition treats a thread inside the code that calls `dispatch` as not
//! clear, so the bodies in its registers stay, and so does its state.
//!
//! # A larger table
//!
//! A table may be replaced by a larger one, which lists what the old one listed ([`ThreadTable::copy`]).
//! Its pointer is stored with Release before any site of the next transition chooses, or before
//! any thread is listed in it that the old one did not list. Old tables stay,
//! as they were left, for as long as there are threads: one may be asleep in `dispatch` with an old
//! table in hand. What it finds there is nothing, or the state that it had when it went to sleep, and
//! still has, since it is not clear. If nothing, it looks again after it has read the others' state,
//! and asks again where the table is. That load comes after the one of the others' state, which is
//! Acquire; so if the others have moved, the table is found that was published before the sites
//! chose, and in it the thread, because whoever moved them saw it asleep and listed it.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::door::{Call, Door, DoorWords, Judgement};
use crate::{PatchState, ThreadId};

/// An atomic word. A trait only so that the very same code can be run under a model checker for
/// memory orders.
pub trait Word {
    /// Atomic load.
    fn load(&self, order: Ordering) -> u64;
    /// Atomic store.
    fn store(&self, value: u64, order: Ordering);
    /// Stores `new` if the value is `current`; the value before. A failure is a load with `Acquire`.
    fn compare_exchange(&self, current: u64, new: u64, order: Ordering) -> Result<u64, u64>;
    /// Stores the larger of the value and `other`; the value before.
    fn fetch_max(&self, other: u64, order: Ordering) -> u64;
}

impl Word for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    fn compare_exchange(&self, current: u64, new: u64, order: Ordering) -> Result<u64, u64> {
        // ORDERING: the caller's, which says why.
        self.compare_exchange(current, new, order, Ordering::Acquire)
    }

    fn fetch_max(&self, other: u64, order: Ordering) -> u64 {
        self.fetch_max(other, order)
    }
}

/// In a thread's state word: as [`TransitionWords::others`] says. All zero bytes are a valid table.
const OTHERS: u64 = 0;
const UNPATCHED: u64 = 1;
const PATCHED: u64 = 2;
/// Besides one of the last two: the thread may switch by itself, behind its door.
pub const DOOR: u64 = 4;

/// The state in a thread's word; `None` if it is the others' state.
pub const fn decode(word: u64) -> Option<PatchState> {
    match word & !DOOR {
        UNPATCHED => Some(PatchState::Unpatched),
        PATCHED => Some(PatchState::Patched),
        _ => None,
    }
}

/// How a state is written in [`TransitionWords::others`], and in the word that
/// [`ThreadTable::state_word`] finds: for whoever has to write it from outside of the process.
pub const fn encode(state: PatchState) -> u64 {
    match state {
        PatchState::Unpatched => UNPATCHED,
        PatchState::Patched => PATCHED,
    }
}

/// Where a site leads, as addresses of code.
#[derive(Debug, Default)]
#[repr(C)]
pub struct SiteWords<A = AtomicU64> {
    /// For threads that are not patched.
    pub old: A,
    /// For threads that are.
    pub new: A,
}

/// The state of threads that have no place in the table.
#[derive(Debug, Default)]
#[repr(C)]
pub struct TransitionWords<A = AtomicU64> {
    /// All that the table does not name.
    pub others: A,
    /// Those without a thread pointer, who cannot be told apart; 0 if they are like all others.
    pub anonymous: A,
}

/// A place in the table, which uses linear probing from the thread pointer's hash.
#[derive(Debug, Default)]
#[repr(C)]
pub struct ThreadSlot<A = AtomicU64> {
    /// Thread pointer, or 0 if free.
    pub thread: A,
    /// The thread's state.
    pub state: A,
    /// How it may switch by itself.
    pub door: DoorWords<A>,
}

/// A thread that is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Which one.
    pub thread: ThreadId,
    /// Where it is.
    pub state: PatchState,
    /// How it may switch by itself.
    pub door: Option<Door>,
}

/// The table has no free slot. No thread's state has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TableFull;

/// The body that a call by `thread` of this site's function goes to: an address from the site's
/// words. `thread` is the thread pointer; 0 is a thread that has none. The call may be the one at which
/// the thread switches by itself.
///
/// `slots` says where the table is, and is asked for every look at it: it loads the table's pointer
/// with Acquire, so that what it points to is seen as it was when the pointer was stored.
///
/// Lock-free: it starts over only if the site was rewritten meanwhile, which happens twice in a
/// transition.
pub fn dispatch<'a, A: Word + 'a>(
    site: &SiteWords<A>,
    transition: &TransitionWords<A>,
    slots: impl Fn() -> &'a [ThreadSlot<A>],
    thread: u64,
    call: &impl Call,
) -> u64 {
    let mut bodies = site.read();
    loop {
        let (old, new) = bodies;
        if old == new {
            return new;
        }
        let patched = thread_state(transition, &slots, thread, call) == PATCHED;
        let again = site.read();
        if again == bodies {
            return if patched { new } else { old };
        }
        bodies = again;
    }
}

fn thread_state<'a, A: Word + 'a>(
    transition: &TransitionWords<A>,
    slots: &impl Fn() -> &'a [ThreadSlot<A>],
    thread: u64,
    call: &impl Call,
) -> u64 {
    let listed = || own_state(transition, slots(), thread, call);
    listed().unwrap_or_else(|| {
        // ORDERING: Acquire, as in `own_state`; and so that the second look at the table sees a
        // thread that was listed before the others were moved (`ThreadTable::open`), in the table
        // that was there by then. Without it, a thread that was stopped between the two looks, and
        // listed, would move with the others.
        let others = transition.others.load(Ordering::Acquire);
        listed().unwrap_or(others)
    })
}

/// The state of a thread that is listed, unless that is the others' state.
fn own_state<A: Word>(
    transition: &TransitionWords<A>,
    slots: &[ThreadSlot<A>],
    thread: u64,
    call: &impl Call,
) -> Option<u64> {
    let slot = match thread {
        0 => None,
        _ => Some(find(slots, thread)?),
    };
    let word = slot.map_or(&transition.anonymous, |slot| &slot.state);
    // ORDERING: Acquire, so that the second reading of the site in `dispatch` comes after, and if
    // this state belongs to a later transition than the first reading, sees how the one before
    // ended. Peers: `ThreadTable::open` and `switch`.
    let mut state = word.load(Ordering::Acquire);
    if let Some(slot) = slot {
        while state & DOOR != 0 {
            match pass(transition, slot, state, call) {
                Ok(settled) => return Some(settled),
                Err(changed) => state = changed,
            }
        }
    }
    (state != OTHERS).then_some(state)
}

/// The state of a thread whose door was open when it looked, after what the call says has been done; or
/// what its word has become meanwhile.
fn pass<A: Word>(
    transition: &TransitionWords<A>,
    slot: &ThreadSlot<A>,
    open: u64,
    call: &impl Call,
) -> Result<u64, u64> {
    let own = open & !DOOR;
    let set = |state| {
        // ORDERING: Release, so that the driver of the transition, who reads the new state with Acquire,
        // comes after all that the thread has done in the old one. Acquire on failure, as in
        // `own_state`.
        let set = slot.state.compare_exchange(open, state, Ordering::Release);
        set.map(|_| state)
    };
    // ORDERING: Acquire: if the others have moved, what was done before is seen; see `switch_others`.
    let others = transition.others.load(Ordering::Acquire);
    if others == own {
        return set(own);
    }
    match slot.door.judge(call) {
        Judgement::Inside => Ok(own),
        Judgement::Left => set(others),
        Judgement::Elsewhere => {
            slot.door.close();
            set(own)
        }
        // A handler may have interrupted this, and have switched before the door was moved.
        // ORDERING: Acquire, as in `own_state`.
        Judgement::Moved => match slot.state.load(Ordering::Acquire) {
            state if state == open => Ok(own),
            changed => Err(changed),
        },
    }
}

/// The thread's slot.
fn find<A: Word>(slots: &[ThreadSlot<A>], thread: u64) -> Option<&ThreadSlot<A>> {
    for slot in probe(slots, thread) {
        // ORDERING: Acquire, so that for a key that was taken away (`ThreadTable::close`), the
        // second reading of the site sees how the transition ended; the state has an order of its
        // own.
        match slot.thread.load(Ordering::Acquire) {
            0 => return None,
            key if key == thread => return Some(slot),
            _ => {}
        }
    }
    None
}

/// All slots, in the order in which a thread's is looked for.
fn probe<A>(slots: &[ThreadSlot<A>], thread: u64) -> impl Iterator<Item = &ThreadSlot<A>> {
    // Thread pointers are aligned and often a fixed distance apart; the multiplication (by 2^64
    // over the golden ratio) carries what differs into the upper half.
    let hash = thread.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let length = u64::try_from(slots.len()).unwrap_or(u64::MAX).max(1);
    let start = usize::try_from(hash % length).unwrap_or(0);
    let (before, after) = slots.split_at_checked(start).unwrap_or((slots, &[]));
    after.iter().chain(before)
}

impl<A: Word> SiteWords<A> {
    fn read(&self) -> (u64, u64) {
        // ORDERING: Acquire, so that the states are seen that were written before the site began to
        // choose (`ThreadTable::open`, then `write`). The two words need not be of one instant:
        // a transition changes only one of them when it opens and one when it closes, so a mix is
        // what was or what will be.
        (
            self.old.load(Ordering::Acquire),
            self.new.load(Ordering::Acquire),
        )
    }

    /// Where unpatched threads are sent, and patched ones: for the one writer.
    pub fn bodies(&self) -> (u64, u64) {
        self.read()
    }

    /// Sends unpatched threads to `old` and patched ones to `new`.
    pub fn write(&self, old: u64, new: u64) {
        // ORDERING: Release, so that whoever sees the site choose sees the states that
        // `ThreadTable::open` wrote before; the peer is `read`.
        self.old.store(old, Ordering::Release);
        self.new.store(new, Ordering::Release);
    }
}

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

/// The writer's side of the states. One at a time.
#[derive(Debug)]
pub struct ThreadTable<'words, A = AtomicU64> {
    /// For threads that are not in the table.
    pub transition: &'words TransitionWords<A>,
    /// The table.
    pub slots: &'words [ThreadSlot<A>],
}

impl<'words, A: Word> ThreadTable<'words, A> {
    /// `threads` are in the states given with them, all others in `others`: opens a transition, when
    /// no site chooses yet; or gets it ready to start.
    ///
    /// In the latter case every thread is in its state already, whether it was listed before or not,
    /// and `threads` names all that are not in `others`. Then no thread's state changes at any
    /// instant.
    ///
    /// # Errors
    ///
    /// [`TableFull`]: every thread's state is what it was.
    pub fn open(
        &self,
        others: PatchState,
        threads: impl Iterator<Item = Listed>,
    ) -> Result<(), TableFull> {
        self.forget_others();
        let mut anonymous = OTHERS;
        for listed in threads {
            match listed.thread {
                ThreadId(0) => anonymous = encode(listed.state),
                ThreadId(thread) => self.insert(thread, listed.state, listed.door)?,
            }
        }
        // ORDERING: Release, so that whoever sees these also sees how sites were left by the
        // transition before; the peer is `thread_state`.
        self.transition
            .anonymous
            .store(anonymous, Ordering::Release);
        self.transition
            .others
            .store(encode(others), Ordering::Release);
        Ok(())
    }

    /// Moves all threads that are not listed, also those that are yet to be born, at this instant.
    pub fn switch_others(&self, state: PatchState) {
        // ORDERING: Release, as in `open`.
        self.transition
            .others
            .store(encode(state), Ordering::Release);
    }

    /// Moves one thread. One that is not listed is where it should be already.
    pub fn switch(&self, thread: ThreadId, state: PatchState) {
        if self.shut(thread).is_some()
            && let Some(word) = self.state_word(thread)
        {
            // ORDERING: Release, as in `open`. The thread itself is outside of all code that the two
            // states differ in, so it does not matter when it sees this.
            word.store(encode(state), Ordering::Release);
        }
    }

    /// Where a thread is that is listed. Behind an open door it may switch at any time.
    pub fn state(&self, thread: ThreadId) -> Option<PatchState> {
        // ORDERING: Acquire; the peer is the thread itself in `pass`.
        decode(self.state_word(thread)?.load(Ordering::Acquire))
    }

    /// Closes the door of a thread that is listed: it does not switch by itself any more. Where it is.
    pub fn shut(&self, thread: ThreadId) -> Option<PatchState> {
        shut(self.state_word(thread)?)
    }

    /// Opens a door for a thread that is listed and held, outside of `dispatch`, in the place of the
    /// one that it may have. One that is where the others are needs none. Whether it has one now: a door that was closed
    /// stays closed in this transition.
    pub fn set_door(&self, thread: ThreadId, door: &Door) -> bool {
        // ORDERING: Relaxed, only the one writer is here.
        let others = decode(self.transition.others.load(Ordering::Relaxed));
        let Some(state) = self.shut(thread).filter(|state| Some(*state) != others) else {
            return false;
        };
        let (ThreadId(1..), Some(slot)) = (thread, find(self.slots, thread.0)) else {
            return false;
        };
        // What the thread has left on another stack is not seen by a look at this one.
        if slot.door.is_closed() {
            return false;
        }
        slot.door.write(door);
        // ORDERING: Release, so that the thread sees the door's words; the peer is `own_state`.
        slot.state.store(encode(state) | DOOR, Ordering::Release);
        true
    }

    /// The word that says where a thread is. `None` if there is none of its own: it is not listed,
    /// or no longer, and is where the others are.
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

    /// Lets go of threads that are where all others are; some of them may have ended, and their
    /// thread pointers may come again. Changes nobody's state.
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

    /// Lists all that `smaller` lists, each in the state that it has there: for a table that is about to
    /// take the place of `smaller`, and that nobody sees yet.
    ///
    /// # Errors
    ///
    /// [`TableFull`].
    pub fn copy(&self, smaller: &[ThreadSlot<A>]) -> Result<(), TableFull> {
        for slot in smaller {
            // ORDERING: Relaxed, only the one writer is here.
            let thread = slot.thread.load(Ordering::Relaxed);
            // A thread may sleep in `dispatch` with the old slot in hand: it must not pass there.
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
