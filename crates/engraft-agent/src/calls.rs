//! What the loader's calls have said so far, known without the agent's lock.
//!
//! Most calls bring nothing: a library without dependencies is new at one of its calls and gone at one. To
//! tell these from the others costs no system call here: neither are signals blocked nor is the lock taken.
//!
//! The loader's own lock serialises the calls. It is recursive, though, and until a call has blocked signals
//! a signal handler may open a library in the middle of it: then complete calls happen between any two
//! accesses below. Each of them has dealt with all that was listed when it ended, so the outer call misses
//! nothing; how the words stand the mixture is said at each.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The loader's `r_debug`; 0 before the hook is installed.
static DEBUG: AtomicU64 = AtomicU64::new(0);

/// The fingerprint of the loader's lists when all on them was known and all known on them; 0: none was.
static SETTLED: AtomicU64 = AtomicU64::new(0);

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
    forget_settled();
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

/// Whether the lists are those that were settled. In a mixture, `lists` is at worst from before calls that
/// have settled other ones, so the answer is no; or it is compared before, and these calls have done all.
pub(crate) fn is_settled(lists: u64) -> bool {
    // ORDERING: as in `count`.
    lists != 0 && SETTLED.load(Ordering::Relaxed) == lists
}

/// All of these lists is known. `lists` must have been taken while signals were blocked.
pub(crate) fn set_settled(lists: u64) {
    // ORDERING: as in `count`.
    SETTLED.store(lists, Ordering::Relaxed);
}

/// The next call has to look at everything.
pub(crate) fn forget_settled() {
    set_settled(0);
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
    fn only_the_settled_lists_are_settled() {
        begin(8);
        assert!(!is_settled(0) && !is_settled(7));
        set_settled(7);
        assert!(is_settled(7) && !is_settled(8));
        forget_settled();
        assert!(!is_settled(7) && !is_settled(0));
    }
}
