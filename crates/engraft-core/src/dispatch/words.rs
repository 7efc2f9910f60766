//! The words that dispatch reads: of a site, of the transition, of a thread.

use core::sync::atomic::{AtomicU64, Ordering};

use super::door::DoorWords;
use super::word::Word;
use crate::PatchState;

/// In a thread's state word: as [`TransitionWords::others`] says. All zero bytes are a valid table.
pub(super) const OTHERS: u64 = 0;
pub(super) const UNPATCHED: u64 = 1;
pub(super) const PATCHED: u64 = 2;
/// Added to one of the last two: the thread has a door, and may switch by itself.
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
/// [`ThreadTable::state_word`] finds: for the controller, which writes it from outside of the
/// process.
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
    /// Threads without a thread pointer, which cannot be told apart; 0 if they are in the others'
    /// state.
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

impl<A: Word> SiteWords<A> {
    pub(super) fn read(&self) -> (u64, u64) {
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
        // ORDERING: Release, so that a thread that sees the site choose sees the states that
        // `ThreadTable::open` wrote before; the peer is `read`.
        self.old.store(old, Ordering::Release);
        self.new.store(new, Ordering::Release);
    }
}

/// The thread's slot.
pub(super) fn find<A: Word>(slots: &[ThreadSlot<A>], thread: u64) -> Option<&ThreadSlot<A>> {
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
pub(super) fn probe<A>(
    slots: &[ThreadSlot<A>],
    thread: u64,
) -> impl Iterator<Item = &ThreadSlot<A>> {
    // Thread pointers are aligned and often a fixed distance apart; the multiplication (by 2^64
    // over the golden ratio) carries what differs into the upper half.
    let hash = thread.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let length = u64::try_from(slots.len()).unwrap_or(u64::MAX).max(1);
    let start = usize::try_from(hash % length).unwrap_or(0);
    let (before, after) = slots.split_at_checked(start).unwrap_or((slots, &[]));
    after.iter().chain(before)
}
