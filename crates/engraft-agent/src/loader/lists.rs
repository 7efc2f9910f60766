//! What is known of the loader's lists, in words that calls of the loader read without the agent's
//! lock.
//!
//! The holder of the lock writes them: [`Lists::take_lapsed`] before it changes anything, and
//! [`Lists::set_known`] after that. A call meanwhile must not take for known what the holder is
//! about to change, and must not note a module as lapsed that it has not seen. The tests run these
//! functions under loom, on every execution that the memory model allows.

use core::sync::atomic::{AtomicU64, Ordering};

/// An atomic word. It is a trait so that the same code runs under a model checker for memory
/// orders.
pub(crate) trait Word {
    /// Atomic load.
    fn load(&self, order: Ordering) -> u64;
    /// Atomic store.
    fn store(&self, value: u64, order: Ordering);
    /// Atomic exchange; what was there.
    fn swap(&self, value: u64, order: Ordering) -> u64;
    /// Relaxed compare-and-exchange; whether the value was `old`.
    fn replace(&self, old: u64, new: u64) -> bool;
    /// Relaxed addition; what was there.
    fn add(&self, value: u64) -> u64;
}

impl Word for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.swap(value, order)
    }

    fn replace(&self, old: u64, new: u64) -> bool {
        // ORDERING: Relaxed: only the word itself counts. `take_lapsed` has the peer.
        self.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    fn add(&self, value: u64) -> u64 {
        // ORDERING: Relaxed: only the word itself counts. `CallNumbers::count` says why.
        self.fetch_add(value, Ordering::Relaxed)
    }
}

/// The words.
pub(crate) struct Lists<W> {
    /// The fingerprint of the lists that have exactly the known modules; 0 if there are none.
    pub known: W,
    /// The fingerprint without the modules that were added last, if no patch concerns these;
    /// otherwise 0.
    pub base: W,
    /// Bit 0: the modules that were added last have lapsed, and the lists are those of `base`. The
    /// other bits are a number that changes with each change of the words above, so that no call
    /// sets the bit for modules that it has not seen.
    pub lapse: W,
}

impl<W: Word> Lists<W> {
    /// Whether a call with these lists brings nothing, or nothing that cannot wait.
    ///
    /// A signal handler may make whole calls in the middle of this one. If they end before the
    /// comparison, `lists` is older than what they have made known, and the answer is no. If they
    /// begin after it, they have handled all that this call would.
    pub(crate) fn brings_nothing(&self, lists: u64) -> bool {
        // ORDERING: Acquire pairs with `take_lapsed`: a call that sees its new number sees no older
        // `known`.
        let lapse = self.lapse.load(Ordering::Acquire);
        // ORDERING: written by calls before this one, or in the middle of it. In the latter case
        // the number above is old, and the exchange below fails. While the bit is set, `base` does
        // not change without it.
        let base = self.base.load(Ordering::Relaxed);
        if lapse & 1 != 0 {
            return lists == base;
        }
        // ORDERING: Acquire, so that this is not older than the number, see `take_lapsed`.
        if lists == self.known.load(Ordering::Acquire) {
            return true;
        }
        lists == base && self.lapse.replace(lapse, lapse | 1)
    }

    /// Whether the modules that were added last have lapsed. From now on they have not, and cannot:
    /// the caller holds the agent's lock, and forgets them or is about to change something else.
    pub(crate) fn take_lapsed(&self) -> bool {
        // ORDERING: AcqRel, so that a call between this and the end finds no list known, and waits
        // for the lock.
        let known = self.known.swap(0, Ordering::AcqRel);
        // This comes before the new number. A call that saw the new number and the old word would
        // note as lapsed the modules that the holder is about to use.
        // ORDERING: only the holder of the agent's lock writes `base`; the exchange below releases
        // it.
        let base = self.base.swap(0, Ordering::Relaxed);
        // ORDERING: only the holder of the agent's lock changes the number.
        let next = (self.lapse.load(Ordering::Relaxed) | 1) + 1;
        // ORDERING: Release pairs with the Acquire in `brings_nothing`, which then sees that
        // nothing is known.
        let lapsed = self.lapse.swap(next, Ordering::AcqRel) & 1 != 0;
        // ORDERING: Release: after the new number.
        self.known
            .store(if lapsed { base } else { known }, Ordering::Release);
        lapsed
    }

    /// Makes these lists the known ones. The caller has the agent's lock, and has called
    /// [`Self::take_lapsed`].
    pub(crate) fn set_known(&self, known: u64, base: u64) {
        // ORDERING: Release, as in `take_lapsed`.
        self.known.store(known, Ordering::Release);
        // ORDERING: calls of the loader that come later are ordered by its lock.
        self.base.store(base, Ordering::Relaxed);
    }
}

/// A word for which loom tries all that the memory model allows.
#[cfg(test)]
pub(crate) struct LoomWord(loom::sync::atomic::AtomicU64);

#[cfg(test)]
impl LoomWord {
    /// A word with this value.
    pub(crate) fn new(value: u64) -> Self {
        Self(loom::sync::atomic::AtomicU64::new(value))
    }
}

#[cfg(test)]
impl Word for LoomWord {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.0.swap(value, order)
    }

    fn replace(&self, old: u64, new: u64) -> bool {
        // ORDERING: as in the real word.
        self.0
            .compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    fn add(&self, value: u64) -> u64 {
        // ORDERING: as in the real word.
        self.0.fetch_add(value, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    const EMPTY: u64 = 5;
    const ONE: u64 = 7;

    /// The lists hold one module that no patch concerns.
    fn with_one() -> Arc<Lists<LoomWord>> {
        let word = LoomWord::new;
        Arc::new(Lists {
            known: word(ONE),
            base: word(EMPTY),
            lapse: word(0),
        })
    }

    /// The loader unloads the module while a command begins. Either the command is told and forgets
    /// the module, or the call is not answered "nothing" and looks itself.
    #[test]
    fn a_module_that_goes_while_a_command_begins_is_not_overlooked() {
        loom::model(|| {
            let lists = with_one();
            let call = {
                let lists = Arc::clone(&lists);
                thread::spawn(move || lists.brings_nothing(EMPTY))
            };
            let told = lists.take_lapsed();
            let nothing = call.join().expect("it does not panic");
            // After the command the lists without the module are the known ones, if it was told.
            assert!(!nothing || told || lists.lapse.load(Ordering::Relaxed) & 1 != 0);
            assert_eq!(
                told,
                nothing && lists.known.load(Ordering::Relaxed) == EMPTY
            );
        });
    }

    /// A command makes the module one that matters, while the loader unloads it.
    fn command_during_unload(take_lapsed: fn(&Lists<LoomWord>) -> bool) {
        loom::model(move || {
            let lists = with_one();
            let call = {
                let lists = Arc::clone(&lists);
                thread::spawn(move || lists.brings_nothing(EMPTY))
            };
            let told = take_lapsed(&lists);
            if !told {
                lists.set_known(ONE, 0);
            }
            let nothing = call.join().expect("it does not panic");
            assert!(!nothing || told, "a module that matters has gone unseen");
        });
    }

    /// Then the module must never lapse.
    #[test]
    fn a_module_that_matters_now_does_not_lapse() {
        command_during_unload(Lists::take_lapsed);
    }

    /// The control: the model sees what goes wrong if the number changes before the words that it
    /// is for.
    #[test]
    #[should_panic(expected = "a module that matters has gone unseen")]
    fn a_number_that_changes_too_early_is_caught() {
        command_during_unload(|lists| {
            // ORDERING: as in `take_lapsed`, in the wrong order.
            let known = lists.known.swap(0, Ordering::AcqRel);
            // ORDERING: as above.
            let next = (lists.lapse.load(Ordering::Relaxed) | 1) + 1;
            // ORDERING: as above.
            let lapsed = lists.lapse.swap(next, Ordering::AcqRel) & 1 != 0;
            // ORDERING: as above.
            let base = lists.base.swap(0, Ordering::Relaxed);
            // ORDERING: as above.
            lists
                .known
                .store(if lapsed { base } else { known }, Ordering::Release);
            lapsed
        });
    }

    /// Another module has come in the place of the one that the call has seen.
    #[test]
    fn only_the_modules_that_were_meant_lapse() {
        const OTHER: u64 = 9;
        loom::model(|| {
            let lists = with_one();
            let call = {
                let lists = Arc::clone(&lists);
                thread::spawn(move || lists.brings_nothing(EMPTY))
            };
            if !lists.take_lapsed() {
                lists.set_known(OTHER, ONE);
            }
            if call.join().expect("it does not panic") {
                // It was the first one that has gone: nothing is left that could be told again.
                assert_ne!(lists.known.load(Ordering::Relaxed), OTHER);
            }
            assert!(!lists.brings_nothing(8));
        });
    }
}
