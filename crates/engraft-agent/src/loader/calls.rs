//! What the loader's calls have said so far, known without the agent's lock.
//!
//! Most calls bring nothing: a library without dependencies is new at one of its calls, and is gone at one. To
//! tell these from the others costs no system call here: neither are signals blocked nor is the lock taken. A
//! library that no patch concerns even goes that way: that it has *lapsed* is noted, and who needs the list of
//! modules next (a later call, or a command) forgets it first.
//!
//! The loader's own lock serialises the calls. It is recursive, though, and until a call has blocked signals
//! a signal handler may open a library in the middle of it: then complete calls happen between any two
//! accesses below. Each of them has dealt with all that was listed when it ended, so the outer call misses
//! nothing; how the words stand the mixture is said at each. Commands may run in the middle, too.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::loader::lists::Lists;

/// The loader's `r_debug`; 0 before the hook is installed.
static DEBUG: AtomicU64 = AtomicU64::new(0);

/// What is known of the loader's lists.
static LISTS: Lists<AtomicU64> = Lists {
    known: AtomicU64::new(0),
    base: AtomicU64::new(0),
    lapse: AtomicU64::new(0),
};

/// Something that is listed has to be looked at once more.
static AGAIN: AtomicBool = AtomicBool::new(false);

/// The number of the last call.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// The number of the last call that said "consistent".
static CONSISTENT: AtomicU64 = AtomicU64::new(0);

/// What [`CONSISTENT`] was when the last call began.
static CONSISTENT_BEFORE: AtomicU64 = AtomicU64::new(0);

/// The last call said that objects are being added.
static ADDING: AtomicBool = AtomicBool::new(false);

/// The hook is about to be installed.
pub(crate) fn begin(debug: u64) {
    take_lapsed();
    settle(0, 0);
    // ORDERING: the code that makes the loader call is written later.
    DEBUG.store(debug, Ordering::Relaxed);
}

/// Address of the loader's `r_debug`.
pub(crate) fn debug() -> u64 {
    // ORDERING: written before the first call, and not changed while there can be calls.
    DEBUG.load(Ordering::Relaxed)
}

/// Counts a call. In a mixture, the numbers of consistent calls may fall back to older ones; then a module
/// counts as live later than it could.
pub(crate) fn count(consistent: bool) {
    // ORDERING: these three are written under the loader's lock, which orders the calls of different threads;
    // commands read them while all threads are stopped, or may as well see them a call later.
    let before = CONSISTENT.load(Ordering::Relaxed);
    CONSISTENT_BEFORE.store(before, Ordering::Relaxed);
    // ORDERING: as above.
    let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
    if consistent {
        // ORDERING: as above.
        CONSISTENT.store(number, Ordering::Relaxed);
    }
}

/// The number of the present call, or of the last one.
pub(crate) fn number() -> u64 {
    // ORDERING: as in `count`.
    NUMBER.load(Ordering::Relaxed)
}

/// Whether an object that was first seen at the call of this number is relocated for certain: after that
/// call the loader has said "consistent", and now it has called once more. It relocates either before it says
/// so or right after.
pub(crate) fn is_relocated(seen_at: u64) -> bool {
    // ORDERING: as in `count`.
    seen_at < CONSISTENT_BEFORE.load(Ordering::Relaxed)
}

/// Whether the previous call said that objects are being added. Remembers it of this one.
pub(crate) fn replace_adding(adding: bool) -> bool {
    // ORDERING: as in `count`. Signals are blocked where it matters: it is read in calls that bring something.
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

/// The lists that have exactly the modules that we know. For the holder of the agent's lock.
pub(crate) fn known() -> u64 {
    // ORDERING: only the holder of the lock writes it.
    LISTS.known.load(Ordering::Relaxed)
}

/// All that is on these lists is known; without the modules that were added last they would be `base`, or 0 if it
/// matters when these go. `known` must have been taken while signals were blocked. The caller has the agent's
/// lock, and has called [`take_lapsed`].
pub(crate) fn settle(known: u64, base: u64) {
    // ORDERING: read under the lock only.
    let again = AGAIN.swap(false, Ordering::Relaxed);
    match again {
        true => LISTS.settle(0, 0),
        false => LISTS.settle(known, base),
    }
}

/// The next call has to look at everything, whatever the lists say. For the holder of the agent's lock.
pub(crate) fn look_again() {
    // ORDERING: read under the lock only.
    AGAIN.store(true, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_live_at_the_call_after_the_consistent_one_after_its_own() {
        count(false);
        let seen_at = number();
        assert!(!is_relocated(seen_at));
        count(false);
        count(true);
        assert!(!is_relocated(seen_at));
        count(false);
        assert!(is_relocated(seen_at));
        // First seen at a consistent call, which on some loaders comes before relocation.
        count(true);
        let seen_at = number();
        count(false);
        assert!(!is_relocated(seen_at));
        count(true);
        assert!(!is_relocated(seen_at));
        count(false);
        assert!(is_relocated(seen_at));
    }

    #[test]
    fn a_call_brings_nothing_if_all_is_known_or_what_came_last_has_gone() {
        const EMPTY: u64 = 5;
        const ONE: u64 = 7;
        begin(8);
        assert!(!brings_nothing(EMPTY) && !brings_nothing(ONE));
        settle(EMPTY, 0);
        assert!(brings_nothing(EMPTY) && !brings_nothing(ONE));

        // A module comes and goes; then a module with the same fingerprint is another one.
        assert!(!take_lapsed());
        settle(ONE, EMPTY);
        assert!(brings_nothing(ONE) && brings_nothing(EMPTY));
        assert!(brings_nothing(EMPTY) && !brings_nothing(ONE));
        assert!(take_lapsed());
        assert_eq!(known(), EMPTY);
        settle(ONE, EMPTY);
        assert!(brings_nothing(ONE));

        // A command may have made the module one that matters.
        assert!(!take_lapsed());
        assert!(brings_nothing(ONE) && !brings_nothing(EMPTY));

        look_again();
        settle(ONE, EMPTY);
        assert!(!brings_nothing(ONE) && !brings_nothing(EMPTY));
    }
}
