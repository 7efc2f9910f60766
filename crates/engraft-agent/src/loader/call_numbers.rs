//! The numbers of the loader's calls, by which the agent tells which modules are relocated.
//!
//! A call counts itself under the loader's lock, but without the agent's, and a signal handler may
//! make whole calls in the middle of it. Commands read the numbers in another thread. The tests run
//! the functions below under loom, on every execution that the memory model allows.

use core::sync::atomic::Ordering;

use crate::loader::lists::Word;

/// The numbers. All are written under the loader's lock, so one thread at a time writes them.
pub(crate) struct CallNumbers<W> {
    /// The number of the last call.
    pub last: W,
    /// The number of the last call that said "consistent".
    pub consistent: W,
    /// What [`Self::consistent`] was when the last call began.
    pub consistent_before: W,
}

impl<W: Word> CallNumbers<W> {
    /// Counts a call.
    ///
    /// If a signal handler makes calls in the middle of this, the numbers of consistent calls may
    /// fall back to older ones. Then a module counts as relocated later than it could.
    pub(crate) fn count(&self, consistent: bool) {
        // ORDERING: written by calls before this one, which the loader's lock orders.
        let before = self.consistent.load(Ordering::Relaxed);
        // ORDERING: Release pairs with the Acquire in `is_relocated`: a command that sees this
        // number also sees what the loader has relocated before this call.
        self.consistent_before.store(before, Ordering::Release);
        // ORDERING: a command may as well read the older number. Calls in the middle of this one
        // count themselves, so numbers are not used twice.
        let number = self.last.add(1) + 1;
        if consistent {
            // ORDERING: as above.
            self.consistent.store(number, Ordering::Relaxed);
        }
    }

    /// The number of the present call, or of the last one.
    pub(crate) fn last(&self) -> u64 {
        // ORDERING: as in `count`.
        self.last.load(Ordering::Relaxed)
    }

    /// Whether an object that was first seen at the call of this number is relocated for certain:
    /// after that call the loader has said "consistent", and then it has called once more. The
    /// loader relocates before it says so, or right after.
    pub(crate) fn is_relocated(&self, seen_at: u64) -> bool {
        // ORDERING: Acquire, see `count`. With an older number the module counts as relocated a
        // call later.
        seen_at < self.consistent_before.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;

    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::loader::lists::LoomWord;

    #[test]
    fn a_module_is_live_at_the_call_after_the_consistent_one_after_its_own() {
        let numbers = CallNumbers {
            last: AtomicU64::new(0),
            consistent: AtomicU64::new(0),
            consistent_before: AtomicU64::new(0),
        };
        numbers.count(false);
        let seen_at = numbers.last();
        assert!(!numbers.is_relocated(seen_at));
        numbers.count(false);
        numbers.count(true);
        assert!(!numbers.is_relocated(seen_at));
        numbers.count(false);
        assert!(numbers.is_relocated(seen_at));
        // First seen at a consistent call, which on some loaders comes before relocation.
        numbers.count(true);
        let seen_at = numbers.last();
        numbers.count(false);
        assert!(!numbers.is_relocated(seen_at));
        numbers.count(true);
        assert!(!numbers.is_relocated(seen_at));
        numbers.count(false);
        assert!(numbers.is_relocated(seen_at));
    }

    fn numbers() -> Arc<CallNumbers<LoomWord>> {
        Arc::new(CallNumbers {
            last: LoomWord::new(0),
            consistent: LoomWord::new(0),
            consistent_before: LoomWord::new(0),
        })
    }

    /// In one thread a module is loaded: it is first seen at the first call, and relocated after
    /// the consistent one. In another thread a command asks, by `is_relocated`, and reads what was
    /// relocated.
    fn command_during_load(is_relocated: fn(&CallNumbers<LoomWord>) -> bool) {
        loom::model(move || {
            let numbers = numbers();
            let relocated = Arc::new(LoomWord::new(0));
            let loader = {
                let (numbers, relocated) = (Arc::clone(&numbers), Arc::clone(&relocated));
                thread::spawn(move || {
                    numbers.count(false);
                    numbers.count(true);
                    // ORDERING: relocation is plain writes; the numbers have to order them.
                    relocated.store(1, Ordering::Relaxed);
                    numbers.count(false);
                })
            };
            if is_relocated(&numbers) {
                // ORDERING: as above.
                let seen = relocated.load(Ordering::Relaxed);
                assert_eq!(seen, 1, "the module is not relocated yet");
            }
            loader.join().expect("it does not panic");
            assert!(numbers.is_relocated(1));
        });
    }

    #[test]
    fn a_command_takes_no_module_for_relocated_too_early() {
        command_during_load(|numbers| numbers.is_relocated(1));
    }

    /// The control: the model sees what goes wrong without the order.
    #[test]
    #[should_panic(expected = "the module is not relocated yet")]
    fn a_number_that_orders_nothing_is_caught() {
        // ORDERING: this is the fault.
        command_during_load(|numbers| 1 < numbers.consistent_before.load(Ordering::Relaxed));
    }
}
