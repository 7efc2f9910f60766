//! What the loader's calls have said so far, known without the agent's lock.
//!
//! Most calls bring nothing. A library without dependencies is new at one of its calls, and gone at
//! another one. The calls that bring nothing are recognised here without a system call: signals are
//! not blocked, and the lock is not taken. Even the departure of a library that no patch concerns
//! is only noted: the library has *lapsed*. Whoever uses the list of modules next, a later call or
//! a command, forgets it first.
//!
//! The loader's own lock serialises the calls. But that lock is recursive, and until a call has
//! blocked signals, a signal handler may open a library in the middle of it. Then whole calls
//! happen between any two accesses below. Each of them has handled all that was listed when it
//! ended, so the outer call misses nothing. Each static says why such interleaving cannot corrupt
//! it. Commands may run in the middle of a call, too. The tests run the functions below under loom,
//! on every execution that the memory model allows.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::loader::call_numbers::CallNumbers;
use crate::loader::lists::Lists;

/// Address of the loader's `r_debug`; 0 before the hook is installed. Calls only read it.
static DEBUG: AtomicU64 = AtomicU64::new(0);

/// What is known of the loader's lists. [`Lists`] says why interleaved calls cannot corrupt it.
static LISTS: Lists<AtomicU64> = Lists {
    known: AtomicU64::new(0),
    base: AtomicU64::new(0),
    lapse: AtomicU64::new(0),
};

/// The next call has to look at all that is listed. Read and written under the agent's lock only.
static AGAIN: AtomicBool = AtomicBool::new(false);

/// The numbers of the loader's calls.
static NUMBERS: CallNumbers<AtomicU64> = CallNumbers {
    last: AtomicU64::new(0),
    consistent: AtomicU64::new(0),
    consistent_before: AtomicU64::new(0),
};

/// The last call said that objects are being added. A call in the middle of another one leaves the
/// value of the state that the loader is in when it ends, which is the one that the outer call has
/// found.
static ADDING: AtomicBool = AtomicBool::new(false);

/// The hook is about to be installed.
pub(crate) fn begin(debug: u64) {
    take_lapsed();
    set_known(0, 0);
    // ORDERING: the code that makes the loader call is written later.
    DEBUG.store(debug, Ordering::Relaxed);
}

/// Address of the loader's `r_debug`.
pub(crate) fn debug() -> u64 {
    // ORDERING: written before the first call, and not changed while there can be calls.
    DEBUG.load(Ordering::Relaxed)
}

/// Counts a call: see [`CallNumbers::count`].
pub(crate) fn count(consistent: bool) {
    NUMBERS.count(consistent);
}

/// The number of the present call, or of the last one.
pub(crate) fn number() -> u64 {
    NUMBERS.last()
}

/// Whether an object is relocated for certain: see [`CallNumbers::is_relocated`].
pub(crate) fn is_relocated(seen_at: u64) -> bool {
    NUMBERS.is_relocated(seen_at)
}

/// Whether the previous call said that objects are being added. Notes what this one says.
pub(crate) fn replace_adding(adding: bool) -> bool {
    // ORDERING: written under the loader's lock, which orders the calls of different threads. The
    // answer matters only in calls that bring something, and these have blocked signals.
    let before = ADDING.load(Ordering::Relaxed);
    // ORDERING: as above.
    ADDING.store(adding, Ordering::Relaxed);
    before
}

/// Whether a call, when these are the lists, brings nothing: see [`Lists::brings_nothing`].
pub(crate) fn brings_nothing(lists: u64) -> bool {
    LISTS.brings_nothing(lists)
}

/// Whether the modules that were added last have lapsed: see [`Lists::take_lapsed`].
pub(crate) fn take_lapsed() -> bool {
    LISTS.take_lapsed()
}

/// The fingerprint of the lists that have exactly the known modules. For the holder of the agent's
/// lock.
pub(crate) fn known() -> u64 {
    // ORDERING: only the holder of the lock writes it.
    LISTS.known.load(Ordering::Relaxed)
}

/// Notes that all on the lists with the fingerprint `known` is known. `base` is the fingerprint
/// without the modules that were added last, or 0 if patches concern these.
///
/// For the holder of the agent's lock, after [`take_lapsed`]. `known` must have been computed while
/// signals were blocked.
pub(crate) fn set_known(known: u64, base: u64) {
    // ORDERING: read under the lock only.
    let again = AGAIN.swap(false, Ordering::Relaxed);
    match again {
        true => LISTS.set_known(0, 0),
        false => LISTS.set_known(known, base),
    }
}

/// Makes the next call look at everything, whatever the lists say. For the holder of the agent's
/// lock.
pub(crate) fn look_again() {
    // ORDERING: read under the lock only.
    AGAIN.store(true, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_brings_nothing_if_all_is_known_or_what_came_last_has_gone() {
        const EMPTY: u64 = 5;
        const ONE: u64 = 7;
        begin(8);
        assert!(!brings_nothing(EMPTY) && !brings_nothing(ONE));
        set_known(EMPTY, 0);
        assert!(brings_nothing(EMPTY) && !brings_nothing(ONE));

        // A module comes and goes; then a module with the same fingerprint is another one.
        assert!(!take_lapsed());
        set_known(ONE, EMPTY);
        assert!(brings_nothing(ONE) && brings_nothing(EMPTY));
        assert!(brings_nothing(EMPTY) && !brings_nothing(ONE));
        assert!(take_lapsed());
        assert_eq!(known(), EMPTY);
        set_known(ONE, EMPTY);
        assert!(brings_nothing(ONE));

        // A command may have made the module one that matters.
        assert!(!take_lapsed());
        assert!(brings_nothing(ONE) && !brings_nothing(EMPTY));

        look_again();
        set_known(ONE, EMPTY);
        assert!(!brings_nothing(ONE) && !brings_nothing(EMPTY));
    }
}
