//! Litmus tests for dispatch: loom runs the shipped code on every execution that the memory model
//! allows, against a controller that inserts, switches and removes.
//!
//! X is the original, Y what the first transition brings, Z what the second does. "Stopped and
//! clear" is a lock that a thread holds from dispatch to the end of the body: the controller gets
//! it only while the thread is outside.

#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "tests may say so in one word, and abort without memory"
)]

use std::sync::atomic::Ordering;

use engraft_core::dispatch::{
    ListedThread, SiteWords, ThreadSlot, ThreadTable, TransitionWords, Word, dispatch, encode,
};
use engraft_core::door::{Call, Door, DoorWords};
use engraft_core::{PatchState, ThreadId};
use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use loom::sync::{Arc, Mutex};
use loom::thread;

const X: u64 = 0x1000;
const Y: u64 = 0x2000;
const Z: u64 = 0x3000;

const OLD: ThreadId = ThreadId(0x7f00);
const OTHER: ThreadId = ThreadId(0x7f40);
const BORN: ThreadId = ThreadId(0x7f80);

/// Stack pointers before calls: from inside of the old code, and from outside of it.
const INNER: u64 = 0x900;
const OUTER: u64 = 0xa00;
/// On another stack.
const ELSEWHERE: u64 = 0x100;

/// For a thread whose outermost replaced frame was called with that.
const DOOR: Door = Door {
    own_stack: [0x700, 0xb00],
    low: 0x800,
    return_to: 0,
    depths: [OUTER, 0, 0, 0],
};

/// A call on an ordinary stack.
struct At {
    stack_pointer: u64,
}

impl Call for At {
    fn stack_pointer(&self) -> u64 {
        self.stack_pointer
    }

    fn return_address(&self) -> u64 {
        0x1234
    }

    fn is_on_alternate_stack(&self) -> Option<bool> {
        Some(false)
    }
}

fn listed(&(thread, state): &(ThreadId, PatchState)) -> ListedThread {
    ListedThread {
        thread,
        state,
        door: None,
    }
}

struct LoomWord(AtomicU64);

impl Word for LoomWord {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    fn compare_exchange(&self, current: u64, new: u64, order: Ordering) -> Result<u64, u64> {
        self.0
            .compare_exchange(current, new, order, Ordering::Acquire)
    }

    fn fetch_max(&self, other: u64, order: Ordering) -> u64 {
        self.0.fetch_max(other, order)
    }
}

fn word(value: u64) -> LoomWord {
    LoomWord(AtomicU64::new(value))
}

struct Shared {
    site: SiteWords<LoomWord>,
    transition: TransitionWords<LoomWord>,
    /// A table, and what replaces it.
    tables: [Vec<ThreadSlot<LoomWord>>; 2],
    /// Which of them it is.
    table: AtomicUsize,
}

impl Shared {
    /// As a transition to the patched state leaves the words: `others` keeps its last value.
    fn new() -> Arc<Self> {
        Self::with_room(2)
    }

    /// With tables for so many threads. The fewer words there are, the fewer executions.
    fn with_room(room: usize) -> Arc<Self> {
        let slot = || ThreadSlot {
            thread: word(0),
            state: word(0),
            door: DoorWords::of(|| word(0)),
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
            tables: [room, room].map(|room| (0..room).map(|_| slot()).collect()),
            table: AtomicUsize::new(0),
        };
        shared.table().switch_others(PatchState::Patched);
        Arc::new(shared)
    }

    fn table(&self) -> ThreadTable<'_, LoomWord> {
        ThreadTable {
            transition: &self.transition,
            slots: self.slots(),
        }
    }

    fn slots(&self) -> &[ThreadSlot<LoomWord>] {
        // ORDERING: Acquire, as `dispatch` asks for.
        &self.tables[self.table.load(Ordering::Acquire)]
    }

    /// Puts the second table in the first one's place.
    fn replace_table(&self) {
        // ORDERING: Release, as `dispatch` asks for.
        self.table.store(1, Ordering::Release);
    }

    fn call(&self, thread: ThreadId) -> u64 {
        self.call_from(thread, INNER)
    }

    fn call_from(&self, thread: ThreadId, stack_pointer: u64) -> u64 {
        let call = At { stack_pointer };
        let slots = || self.slots();
        dispatch(&self.site, &self.transition, slots, thread.0, &call)
    }

    /// Opens a transition between `old` and `new` that leaves `from`; nobody has switched.
    fn begin(&self, from: PatchState, old: u64, new: u64) {
        self.list(from, &[]);
        self.site.write(old, new);
    }

    fn list(&self, others: PatchState, threads: &[(ThreadId, PatchState)]) {
        self.table()
            .open(others, threads.iter().map(listed))
            .expect("there is room");
    }

    /// The same for one thread that may switch by itself.
    fn list_with_door(&self, others: PatchState, thread: ThreadId) {
        let one = ListedThread {
            thread,
            state: others,
            door: Some(DOOR),
        };
        self.table()
            .open(others, std::iter::once(one))
            .expect("there is room");
    }

    /// Lets everybody go, except `behind`.
    fn start(&self, from: PatchState, behind: &[ThreadId]) {
        let states: Vec<_> = behind.iter().map(|thread| (*thread, from)).collect();
        self.list(from, &states);
        self.table().switch_others(from.other());
    }

    /// A transition that brings `new`, and has started.
    fn open(&self, behind: &[ThreadId], old: u64, new: u64) {
        self.begin(PatchState::Unpatched, old, new);
        self.start(PatchState::Unpatched, behind);
    }

    fn close(&self, code: u64) {
        self.site.write(code, code);
        self.table().close();
    }
}

/// For those that would take minutes: everything that the memory model allows, but no more than
/// three switches from a thread that could go on.
fn bounded(test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(test);
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
        let shared = Shared::with_room(1);
        shared.open(&[], X, Y);
        let caller = Arc::clone(&shared);
        let caller = thread::spawn(move || assert_eq!(caller.call(BORN), Y));
        shared.close(Y);
        // Listed when it begins, which saves executions.
        shared.list(PatchState::Unpatched, &[(BORN, PatchState::Unpatched)]);
        shared.site.write(Y, Z);
        shared.table().switch_others(PatchState::Patched);
        caller.join().expect("one universe");
    });
}

/// The same when the next transition takes back what the first has brought: the site's words are
/// the same again, so only the thread's state can tell.
#[test]
fn a_sleeper_is_not_moved_by_the_transition_back() {
    loom::model(|| {
        let shared = Shared::with_room(1);
        shared.open(&[], X, Y);
        let caller = Arc::clone(&shared);
        let caller = thread::spawn(move || assert_eq!(caller.call(BORN), Y));
        shared.close(Y);
        shared.begin(PatchState::Patched, X, Y);
        shared.start(PatchState::Patched, &[BORN]);
        caller.join().expect("its own universe");
    });
}

/// The same with a table that is replaced in between: the sleeper may have the old one in hand,
/// where nobody lists it any more.
#[test]
fn a_sleeper_with_the_old_table_is_not_moved() {
    loom::model(|| {
        let shared = Shared::with_room(1);
        shared.open(&[], X, Y);
        let caller = Arc::clone(&shared);
        let caller = thread::spawn(move || assert_eq!(caller.call(BORN), Y));
        shared.close(Y);
        shared.replace_table();
        shared.begin(PatchState::Patched, X, Y);
        shared.start(PatchState::Patched, &[BORN]);
        caller.join().expect("its own universe");
    });
}

/// The old table may be seen as it was when it still listed the sleeper.
#[test]
fn a_sleeper_that_the_old_table_lists_is_not_moved() {
    bounded(|| {
        let shared = Shared::with_room(1);
        shared.open(&[OLD], X, Y);
        shared.table().switch(OLD, PatchState::Patched);
        let caller = Arc::clone(&shared);
        let caller = thread::spawn(move || assert_eq!(caller.call(OLD), Y));
        shared.close(Y);
        shared.replace_table();
        shared.open(&[OLD], Y, Z);
        caller.join().expect("its own universe");
    });
}

/// Threads run while they are listed, and the start may fail after that; then others are listed,
/// and only then somebody moves. Nobody has seen anything but the old code, except who is moved.
#[test]
fn listing_moves_nobody() {
    bounded(|| {
        let shared = Shared::new();
        shared.begin(PatchState::Unpatched, X, Y);
        let caller = Arc::clone(&shared);
        let caller = thread::spawn(move || {
            assert_eq!(caller.call(OLD), X);
            let calls = [caller.call(OTHER), caller.call(OTHER)];
            assert!(matches!(calls, [X, X] | [X, Y] | [Y, Y]), "{calls:x?}");
        });
        let behind = [OLD, OTHER].map(|thread| (thread, PatchState::Unpatched));
        shared.list(PatchState::Unpatched, &behind);
        shared.start(PatchState::Unpatched, &[OLD]);
        caller.join().expect("nobody moved too early");
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

/// The thread switches by itself when it comes from outside, once, and nothing that is only for
/// those who stayed behind is run after that. The driver sees it, and only then goes on.
#[test]
fn a_thread_switches_at_the_door() {
    bounded(|| {
        let shared = Shared::with_room(1);
        shared.begin(PatchState::Unpatched, X, Y);
        shared.list_with_door(PatchState::Unpatched, OLD);
        shared.table().switch_others(PatchState::Patched);
        let caller = Arc::clone(&shared);
        let caller = thread::spawn(move || {
            assert_eq!(caller.call_from(OLD, INNER), X);
            assert_eq!(caller.call_from(OLD, OUTER), Y);
            assert_eq!(caller.call_from(OLD, INNER), Y);
        });
        if shared.table().state(OLD) == Some(PatchState::Patched) {
            shared.close(Y);
        }
        caller.join().expect("its own switch");
    });
}

/// The door is shut while the thread comes: either it has switched, and whoever shut it knows, or
/// it never does. Then the transition leads back, and the thread is where it was seen to be.
#[test]
fn a_door_is_shut_before_a_transition_is_turned_round() {
    bounded(|| {
        let shared = Shared::with_room(1);
        shared.begin(PatchState::Unpatched, X, Y);
        shared.list_with_door(PatchState::Unpatched, OLD);
        shared.table().switch_others(PatchState::Patched);
        let caller = Arc::clone(&shared);
        let caller = thread::spawn(move || [OUTER, OUTER].map(|at| caller.call_from(OLD, at)));
        let state = shared.table().shut(OLD).expect("listed");
        if state == PatchState::Unpatched {
            // It is where the transition leads now; the others follow.
            shared.list(PatchState::Patched, &[(OLD, state)]);
            shared.table().switch_others(PatchState::Unpatched);
        }
        let expected = match state {
            PatchState::Unpatched => [X, X],
            PatchState::Patched => [Y, Y],
        };
        let calls = caller.join().expect("two calls");
        match state {
            PatchState::Unpatched => assert_eq!(calls, expected),
            // It may have called before.
            PatchState::Patched => assert_eq!(calls[1], Y),
        }
    });
}

/// Listed with a door, and the others do not move, since whoever was about to move them has died.
/// The thread stays where it is, and closes the door: what was seen of its stack is no longer true.
#[test]
fn a_door_is_of_no_use_before_the_others_have_moved() {
    bounded(|| {
        let shared = Shared::with_room(1);
        shared.begin(PatchState::Unpatched, X, Y);
        let caller = Arc::clone(&shared);
        let caller = thread::spawn(move || {
            // Once only: loom lets a thread that has exchanged a value read stores of another
            // thread out of their order afterwards.
            assert_eq!(caller.call_from(OLD, OUTER), X);
        });
        shared.list_with_door(PatchState::Unpatched, OLD);
        shared.list(PatchState::Unpatched, &[(OLD, PatchState::Unpatched)]);
        shared.table().switch_others(PatchState::Patched);
        caller.join().expect("no door");
    });
}

/// A table is replaced while a thread is in `dispatch` with the old one in hand, where it has a
/// door.
#[test]
fn a_door_in_an_old_table_is_shut() {
    bounded(|| {
        let shared = Shared::with_room(1);
        shared.begin(PatchState::Unpatched, X, Y);
        shared.list_with_door(PatchState::Unpatched, OLD);
        let caller = Arc::clone(&shared);
        let caller = thread::spawn(move || assert_eq!(caller.call_from(OLD, OUTER), X));
        let new = ThreadTable {
            transition: &shared.transition,
            slots: &shared.tables[1],
        };
        new.copy(&shared.tables[0]).expect("there is room");
        shared.replace_table();
        shared.start(PatchState::Unpatched, &[OLD]);
        caller.join().expect("no door");
    });
}

/// A thread that had no other with its thread pointer gets one, on a stack of its own: it closes
/// the door before it runs the old code, or runs the new one.
#[test]
fn a_second_thread_with_the_pointer_closes_the_door() {
    bounded(|| {
        let shared = Shared::with_room(1);
        shared.begin(PatchState::Unpatched, X, Y);
        shared.list_with_door(PatchState::Unpatched, OLD);
        shared.table().switch_others(PatchState::Patched);
        let second = Arc::clone(&shared);
        let second = thread::spawn(move || {
            let first = second.call_from(OLD, ELSEWHERE);
            assert_eq!(second.call_from(OLD, ELSEWHERE), first);
        });
        shared.call_from(OLD, OUTER);
        second.join().expect("one universe");
    });
}

/// Turning a transition round, without stopping the threads that it lists: each stays where it is,
/// until it starts again, and who never switched stays then, too.
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
        shared.list(PatchState::Patched, &states);
        shared.table().switch_others(PatchState::Unpatched);
        caller.join().expect("its own universe");
    });
}

/// Somebody outside of the process writes the words; the same as if it was done inside.
#[test]
fn the_words_can_be_written_from_outside() {
    loom::model(|| {
        let shared = Shared::new();
        shared.begin(PatchState::Unpatched, X, Y);
        let behind = [OLD, ThreadId(0)].map(|thread| (thread, PatchState::Unpatched));
        shared.list(PatchState::Unpatched, &behind);
        assert!(shared.table().state_word(OTHER).is_none());
        let patched = encode(PatchState::Patched);
        shared.transition.others.store(patched, Ordering::Release);
        for (thread, state) in behind {
            assert_eq!([shared.call(thread), shared.call(OTHER)], [X, Y]);
            let table = shared.table();
            let word = table.state_word(thread).expect("listed");
            assert_eq!(word.load(Ordering::Relaxed), encode(state));
            word.store(patched, Ordering::Release);
            assert_eq!(shared.call(thread), Y);
        }
        // The next start forgets those that are where the others are.
        shared.list(PatchState::Patched, &[]);
        for (thread, _) in behind {
            assert!(shared.table().state_word(thread).is_none());
        }
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
            let state = match code {
                X => PatchState::Unpatched,
                _ => PatchState::Patched,
            };
            (thread, state)
        };
        let threads = states.into_iter().map(state);
        shared
            .table()
            .open(PatchState::Patched, threads.map(|it| listed(&it)))
            .expect_err("two slots, three threads");
        for (thread, code) in states {
            assert_eq!(shared.call(thread), code);
        }
    });
}
