//! The door: how a blocked thread switches by itself.
//!
//! The controller has walked the thread's stack, found replaced code in it, and notes a [`Door`].
//! When the thread enters a patched function again, [`judge`](DoorWords::judge) compares its stack
//! pointer with what was noted. `docs/transition.md` has the argument; in short:
//!
//! - A frame's return address lies right below its canonical frame address (CFA). A call made with
//!   the stack pointer at that CFA overwrites it, so the frame has ended, and with it all frames
//!   that lie below it.
//! - The outermost replaced frame is the lowest of those for which that matters. So a call from its
//!   CFA, or from the CFA of a frame further out, finds the thread outside of all replaced code.
//! - A call from between these places may be on another stack, which is an array inside a frame. It
//!   gets the old code, and the door moves above it.
//! - A call from elsewhere on the thread's own stack gets the old code, and the door is shut until
//!   the thread is checked again.
//! - A call from anywhere else is on another stack. Frames on the alternate signal stack end before
//!   the thread returns to its own. On any other stack frames may stay, so the door closes.
//!
//! The door is opened and closed by compare-and-swap of the thread's state word, which holds the
//! state and whether the door is open.

use core::sync::atomic::Ordering;

use super::word::Word;

/// How many frames are noted, from the outermost replaced one outwards.
pub const DEPTHS: usize = 4;

/// The facts about the stack of a thread inside replaced code from which a call is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Door {
    /// Start and end of the thread's own stack, if a call from there that tells nothing shuts the
    /// door until the next check; 0 and 0 if it closes the door.
    pub own_stack: [u64; 2],
    /// The lowest address that is known to belong to the stack that was walked.
    pub low: u64,
    /// Where the outermost replaced function returns to, if that function may end in a jump to
    /// another one (a tail call), which has the same stack pointer and return address as a call
    /// from there; 0 if it cannot.
    pub return_to: u64,
    /// The CFA of the outermost replaced frame, then those of frames further out, ascending; unused
    /// ones are 0.
    pub depths: [u64; DEPTHS],
}

impl Door {
    /// Whether its numbers fit together.
    pub fn is_sound(&self) -> bool {
        let [first, ..] = self.depths;
        let ascending = |pair: &[u64]| matches!(pair, [a, b] if a < b || *b == 0);
        let unused_last = |pair: &[u64]| matches!(pair, [a, b] if *a != 0 || *b == 0);
        let pairs = || self.depths.windows(2);
        self.low != 0 && self.low < first && pairs().all(ascending) && pairs().all(unused_last)
    }
}

/// A call of a patched function, as dispatch sees it.
pub trait Call {
    /// The stack pointer before the call: the CFA of the frame that the call makes.
    fn stack_pointer(&self) -> u64;
    /// Where it returns to.
    fn return_address(&self) -> u64;
    /// Whether the thread is on its alternate signal stack, as the kernel says. `None` if the
    /// kernel cannot be asked. Only rarely called.
    fn is_on_alternate_stack(&self) -> Option<bool>;
}

/// [`Door`] in a thread's slot.
#[derive(Debug, Default)]
#[repr(C)]
pub struct DoorWords<A> {
    own_stack: [A; 2],
    low: A,
    return_to: A,
    depths: [A; DEPTHS],
    /// Calls from below are inside. The first depth, or more if old code was entered above that.
    inside: A,
}

/// What a call shows of a thread with a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Judgement {
    /// The thread may be inside replaced code.
    Inside,
    /// It has left all replaced code.
    Left,
    /// It may be inside, and the door was moved above this call.
    Moved,
    /// It may be inside, and only another check of the thread can tell.
    Lost,
    /// It is on a stack whose frames may stay when the thread leaves it.
    Elsewhere,
}

impl<A: Word> DoorWords<A> {
    /// Made of words that are all `word`: for other words than `AtomicU64`.
    pub fn of(word: impl Fn() -> A) -> Self {
        Self {
            own_stack: core::array::from_fn(|_| word()),
            low: word(),
            return_to: word(),
            depths: core::array::from_fn(|_| word()),
            inside: word(),
        }
    }

    /// Notes a door. The thread is held, outside of dispatch, and its door is not open; the state
    /// word is stored after. (Without loops: they take three times the agent's memory.)
    pub(crate) fn write(&self, door: &Door) {
        // ORDERING: Relaxed, published by the Release store of the state word.
        let note = |word: &A, value| word.store(value, Ordering::Relaxed);
        let (stack, depths) = (&self.own_stack, &self.depths);
        note(&stack[0], door.own_stack[0]);
        note(&stack[1], door.own_stack[1]);
        note(&self.low, door.low);
        note(&self.return_to, door.return_to);
        note(&self.inside, door.depths[0]);
        note(&depths[0], door.depths[0]);
        note(&depths[1], door.depths[1]);
        note(&depths[2], door.depths[2]);
        note(&depths[3], door.depths[3]);
    }

    /// The door stays closed in this transition.
    pub(crate) fn close(&self) {
        // ORDERING: Relaxed, as in `judge`; published by the Release store of the state word.
        self.inside.fetch_max(u64::MAX, Ordering::Relaxed);
    }

    /// Whether it was closed for this transition.
    pub(crate) fn is_closed(&self) -> bool {
        // ORDERING: Relaxed; the state word was loaded with Acquire (`ThreadTable::shut`).
        self.inside.load(Ordering::Relaxed) == u64::MAX
    }

    /// For a new transition, or a new start of one.
    pub(crate) fn reset(&self) {
        // ORDERING: Relaxed; the thread's door is not open.
        self.inside.store(0, Ordering::Relaxed);
    }

    /// What a call shows. Called by the thread itself, whose door was open when it looked.
    pub(crate) fn judge(&self, call: &impl Call) -> Judgement {
        let at = call.stack_pointer();
        // ORDERING: Relaxed here and below: the state word was loaded with Acquire, and since then
        // only the thread itself has written, and signal handlers that have interrupted it.
        if self.low.load(Ordering::Relaxed) <= at {
            if at < self.inside.load(Ordering::Relaxed) {
                return Judgement::Inside;
            }
            if let Some(judgement) = self.judge_above(call, at) {
                return judgement;
            }
        }
        match call.is_on_alternate_stack() {
            Some(true) => Judgement::Inside,
            Some(false) if self.is_on_own_stack(at) => Judgement::Lost,
            Some(false) | None => Judgement::Elsewhere,
        }
    }

    fn is_on_own_stack(&self, at: u64) -> bool {
        let [start, end] = &self.own_stack;
        // ORDERING: Relaxed, as in `judge`.
        start.load(Ordering::Relaxed) <= at && at < end.load(Ordering::Relaxed)
    }

    /// Judges a call from above the outermost replaced frame. `None` if the call is outside the
    /// part of the stack that was noted.
    fn judge_above(&self, call: &impl Call, at: u64) -> Option<Judgement> {
        // ORDERING: Relaxed, as in `judge`.
        let depths = || self.depths.iter().map(|it| it.load(Ordering::Relaxed));
        if depths().all(|depth| depth < at) {
            return None;
        }
        if !depths().any(|depth| depth == at) {
            return Some(match call.is_on_alternate_stack() {
                Some(true) => Judgement::Inside,
                Some(false) | None => {
                    // ORDERING: Relaxed, as in `judge`; a handler that interrupts this may move it
                    // further up, and is not undone.
                    self.inside.fetch_max(at + 1, Ordering::Relaxed);
                    Judgement::Moved
                }
            });
        }
        // ORDERING: Relaxed, as in `judge`.
        let return_to = self.return_to.load(Ordering::Relaxed);
        let is_first = depths().next() == Some(at);
        if is_first && call.return_address() == return_to {
            return Some(Judgement::Inside);
        }
        Some(match call.is_on_alternate_stack() {
            Some(false) => Judgement::Left,
            Some(true) => Judgement::Inside,
            None => Judgement::Elsewhere,
        })
    }
}
