//! What is known of the loader's lists, in words that calls of the loader read without the agent's lock.
//!
//! The holder of the lock writes them: [`Lists::take_lapsed`] before it changes anything, [`Lists::settle`] when it
//! has done. A call meanwhile must not take for known what the holder is about to change, nor note as lapsed
//! other modules than the ones that it has seen. Loom runs these very functions on every execution that the memory
//! model allows (the tests below).

use core::sync::atomic::{AtomicU64, Ordering};

/// An atomic word. A trait only so that the same code can be run under a model checker for memory orders.
pub(crate) trait Word {
    /// Atomic load.
    fn load(&self, order: Ordering) -> u64;
    /// Atomic store.
    fn store(&self, value: u64, order: Ordering);
    /// Atomic exchange; what was there.
    fn swap(&self, value: u64, order: Ordering) -> u64;
    /// Relaxed compare-and-exchange; whether it has been done.
    fn replace(&self, old: u64, new: u64) -> bool;
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
}

/// The words.
pub(crate) struct Lists<W> {
    /// The fingerprint of the loader's lists that has exactly the modules that we know; 0: there is none.
    pub known: W,
    /// The fingerprint without the modules that were added last, if no patch concerns these; or 0.
    pub base: W,
    /// Bit 0: the modules that were added last have lapsed, the lists are those of `base`. The other bits: a number
    /// that changes with each change of the words above, so that nobody sets the bit for other modules than the
    /// ones that were meant.
    pub lapse: W,
}

impl<W: Word> Lists<W> {
    /// Whether a call, when these are the lists, brings nothing, or nothing that cannot wait. In a mixture, `lists` is
    /// from before calls that have made other ones known, and the answer is no; or it was compared before, and these
    /// calls have done all.
    pub(crate) fn brings_nothing(&self, lists: u64) -> bool {
        // ORDERING: Acquire pairs with `take_lapsed`: who sees its new number sees no older `known`.
        let lapse = self.lapse.load(Ordering::Acquire);
        // ORDERING: written by calls before this one, or in the middle of it; then the number above is old, and the
        // exchange below fails. While the bit is set, `base` does not change without it.
        let base = self.base.load(Ordering::Relaxed);
        if lapse & 1 != 0 {
            return lists == base;
        }
        // ORDERING: Acquire, so that in `take_lapsed` there is no instant at which the number is new and this old.
        if lists == self.known.load(Ordering::Acquire) {
            return true;
        }
        lists == base && self.lapse.replace(lapse, lapse | 1)
    }

    /// Whether the modules that were added last have lapsed. From now on they have not, nor can they: the caller
    /// holds the agent's lock and forgets them, or is about to change something else.
    pub(crate) fn take_lapsed(&self) -> bool {
        // ORDERING: AcqRel, so that a call between this and the end sees no list as known, and has to wait for the
        // lock.
        let known = self.known.swap(0, Ordering::AcqRel);
        // Before the number: a call that saw the new number and this old word would note the modules as lapsed that the
        // holder is about to work with.
        // ORDERING: only the holder of the agent's lock writes `base`; the exchange below releases it.
        let base = self.base.swap(0, Ordering::Relaxed);
        // ORDERING: only the holder of the agent's lock changes the number.
        let next = (self.lapse.load(Ordering::Relaxed) | 1) + 1;
        // ORDERING: Release pairs with the Acquire in `brings_nothing`, which then sees that nothing is known.
        let lapsed = self.lapse.swap(next, Ordering::AcqRel) & 1 != 0;
        // ORDERING: Release: after the new number.
        self.known
            .store(if lapsed { base } else { known }, Ordering::Release);
        lapsed
    }

    /// Makes these lists the known ones. The caller has the agent's lock, and has called [`Self::take_lapsed`].
    pub(crate) fn settle(&self, known: u64, base: u64) {
        // ORDERING: Release, as in `take_lapsed`.
        self.known.store(known, Ordering::Release);
        // ORDERING: calls of the loader that come later are ordered by its lock.
        self.base.store(base, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    const EMPTY: u64 = 5;
    const ONE: u64 = 7;

    struct LoomWord(loom::sync::atomic::AtomicU64);

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
            self.0
                .compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        }
    }

    /// The lists hold one module that no patch concerns.
    fn with_one() -> Arc<Lists<LoomWord>> {
        let word = |value| LoomWord(loom::sync::atomic::AtomicU64::new(value));
        Arc::new(Lists {
            known: word(ONE),
            base: word(EMPTY),
            lapse: word(0),
        })
    }

    /// The loader unloads the module while a command begins. Either the command is told and forgets the module, or
    /// the call is not answered "nothing", and looks itself.
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

    /// A command makes the module one that matters, while the loader unloads it. Then it must never lapse.
    #[test]
    fn a_module_that_matters_now_does_not_lapse() {
        loom::model(|| {
            let lists = with_one();
            let call = {
                let lists = Arc::clone(&lists);
                thread::spawn(move || lists.brings_nothing(EMPTY))
            };
            let told = lists.take_lapsed();
            if !told {
                lists.settle(ONE, 0);
            }
            let nothing = call.join().expect("it does not panic");
            assert!(!nothing || told, "a module that matters has gone unseen");
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
                lists.settle(OTHER, ONE);
            }
            if call.join().expect("it does not panic") {
                // It was the first one that has gone: nothing is left that could be told again.
                assert_ne!(lists.known.load(Ordering::Relaxed), OTHER);
            }
            assert!(!lists.brings_nothing(8));
        });
    }
}
