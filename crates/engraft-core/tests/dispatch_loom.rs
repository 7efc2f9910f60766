//! Litmus tests for dispatch: loom runs the shipped code on every execution that the memory model
//! allows, against a controller that inserts, switches and removes.
//!
//! X is the original, Y what the first transition brings, Z what the second does. "Stopped and
//! clear" is a lock that a thread holds from dispatch to the end of the body: the controller gets it
//! only while the thread is outside.

#![expect(clippy::expect_used, reason = "tests may say so in one word")]

use std::sync::atomic::Ordering;

use engraft_core::dispatch::{SiteWords, ThreadSlot, ThreadTable, TransitionWords, Word, dispatch};
use engraft_core::{PatchState, ThreadId};
use loom::sync::atomic::{AtomicBool, AtomicU64};
use loom::sync::{Arc, Mutex};
use loom::thread;

const X: u64 = 0x1000;
const Y: u64 = 0x2000;
const Z: u64 = 0x3000;

const OLD: ThreadId = ThreadId(0x7f00);
const OTHER: ThreadId = ThreadId(0x7f40);
const BORN: ThreadId = ThreadId(0x7f80);

struct LoomWord(AtomicU64);

impl Word for LoomWord {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }
}

fn word(value: u64) -> LoomWord {
    LoomWord(AtomicU64::new(value))
}

struct Shared {
    site: SiteWords<LoomWord>,
    transition: TransitionWords<LoomWord>,
    slots: [ThreadSlot<LoomWord>; 2],
}

impl Shared {
    /// As a transition to the patched state leaves the words: `others` keeps its last value.
    fn new() -> Arc<Self> {
        let slot = || ThreadSlot {
            thread: word(0),
            state: word(0),
        };
        let shared = Self {
            site: SiteWords {
                old: word(X),
                new: word(X),
            },
            transition: TransitionWords {
                others: word(0),
                anonymous: word(0),
            },
            slots: [slot(), slot()],
        };
        shared.table().switch_others(PatchState::Patched);
        Arc::new(shared)
    }

    fn table(&self) -> ThreadTable<'_, LoomWord> {
        ThreadTable {
            transition: &self.transition,
            slots: &self.slots,
        }
    }

    fn call(&self, thread: ThreadId) -> u64 {
        dispatch(&self.site, &self.transition, &self.slots, thread.0)
    }

    /// Opens a transition that brings `new`; nobody has switched.
    fn open(&self, threads: &[ThreadId], old: u64, new: u64) {
        let states = threads
            .iter()
            .map(|thread| (*thread, PatchState::Unpatched));
        self.table()
            .open(PatchState::Unpatched, states)
            .expect("there is room");
        self.site.write(old, new);
        self.table().switch_others(PatchState::Patched);
    }

    fn close(&self, code: u64) {
        self.site.write(code, code);
        self.table().close();
    }
}

/// A thread that was there keeps the old code, whatever it sees of the opening.
#[test]
fn a_known_thread_keeps_the_old_code_while_a_transition_opens() {
    loom::model(|| {
        let shared = Shared::new();
        let caller = Arc::clone(&shared);
        let caller = thread::spawn(move || assert_eq!(caller.call(OLD), X));
        shared.open(&[OTHER, OLD], X, Y);
        caller.join().expect("the old code");
    });
}

/// The same for threads without a thread pointer: a defined answer, and the right one.
#[test]
fn a_thread_without_a_pointer_keeps_the_old_code() {
    loom::model(|| {
        let shared = Shared::new();
        let caller = Arc::clone(&shared);
        let caller = thread::spawn(move || assert_eq!(caller.call(ThreadId(0)), X));
        shared.open(&[ThreadId(0)], X, Y);
        caller.join().expect("the old code");
    });
}

/// A thread that is born meanwhile gets the old or the new, and never goes back.
#[test]
fn a_new_thread_never_goes_back() {
    loom::model(|| {
        let shared = Shared::new();
        let caller = Arc::clone(&shared);
        let caller = thread::spawn(move || {
            let calls = [caller.call(BORN), caller.call(BORN)];
            assert!(matches!(calls, [X, X] | [X, Y] | [Y, Y]), "{calls:x?}");
        });
        shared.open(&[OLD], X, Y);
        caller.join().expect("no way back");
    });
}

/// A thread that was born in one transition sleeps inside of dispatch until the next one, which
/// finds it there and keeps it in the old universe: by then Y. It must not put the X that it may
/// have read and the state that it has now together.
#[test]
fn a_sleeper_does_not_mix_two_transitions() {
    loom::model(|| {
        let shared = Shared::new();
        shared.open(&[], X, Y);
        let caller = Arc::clone(&shared);
        let caller = thread::spawn(move || assert_eq!(caller.call(BORN), Y));
        shared.close(Y);
        shared.open(&[BORN], Y, Z);
        caller.join().expect("one universe");
    });
}

/// The same when the next transition takes back what the first has brought: the site's words are
/// the same again, so only the thread's state can tell.
#[test]
fn a_sleeper_is_not_moved_by_the_transition_back() {
    loom::model(|| {
        let shared = Shared::new();
        shared.open(&[], X, Y);
        let caller = Arc::clone(&shared);
        let caller = thread::spawn(move || assert_eq!(caller.call(BORN), Y));
        shared.close(Y);
        let patched = [(BORN, PatchState::Patched)];
        shared
            .table()
            .open(PatchState::Patched, patched.into_iter())
            .expect("there is room");
        shared.site.write(X, Y);
        shared.table().switch_others(PatchState::Unpatched);
        caller.join().expect("its own universe");
    });
}

/// What has been replaced is not run once it is released, and nobody goes back.
#[test]
fn nobody_runs_what_is_released() {
    loom::model(|| {
        let shared = Shared::new();
        shared.open(&[OLD], X, Y);
        let outside = Arc::new(Mutex::new(()));
        let released = Arc::new(AtomicBool::new(false));
        let thread = {
            let (shared, outside) = (Arc::clone(&shared), Arc::clone(&outside));
            let released = Arc::clone(&released);
            thread::spawn(move || {
                let mut last = X;
                for _ in 0..2 {
                    let inside = outside.lock().expect("nobody panics with it");
                    let code = shared.call(OLD);
                    assert!(
                        code == Y || !released.load(Ordering::Relaxed),
                        "runs freed code"
                    );
                    assert!(code == Y || last == X, "goes back");
                    last = code;
                    drop(inside);
                }
            })
        };
        let stopped = outside.lock().expect("nobody panics with it");
        shared.table().switch(OLD, PatchState::Patched);
        drop(stopped);
        shared.close(Y);
        released.store(true, Ordering::Relaxed);
        thread.join().expect("live code");
    });
}

/// Turning a transition round, without stopping the threads that it lists: each stays where it is.
#[test]
fn turning_round_moves_nobody() {
    loom::model(|| {
        let shared = Shared::new();
        shared.open(&[OLD], X, Y);
        let caller = Arc::clone(&shared);
        let caller = thread::spawn(move || {
            assert_eq!(caller.call(OLD), X);
            assert_eq!(caller.call(BORN), Y);
        });
        let states = [(OLD, PatchState::Unpatched), (BORN, PatchState::Patched)];
        shared
            .table()
            .open(PatchState::Unpatched, states.into_iter())
            .expect("there is room");
        caller.join().expect("its own universe");
    });
}

/// A table that is too small says so, and moves nobody.
#[test]
fn a_full_table_moves_nobody() {
    loom::model(|| {
        let shared = Shared::new();
        shared.open(&[OLD, OTHER], X, Y);
        let states = [OLD, OTHER, BORN].map(|thread| (thread, shared.call(thread)));
        let state = |(thread, code)| {
            (
                thread,
                if code == X {
                    PatchState::Unpatched
                } else {
                    PatchState::Patched
                },
            )
        };
        let listed = states.into_iter().map(state);
        shared
            .table()
            .open(PatchState::Unpatched, listed)
            .expect_err("two slots, three threads");
        for (thread, code) in states {
            assert_eq!(shared.call(thread), code);
        }
    });
}
