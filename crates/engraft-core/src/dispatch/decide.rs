//! What a thread does at a call of a patched function.

use core::sync::atomic::Ordering;

use super::door::{Call, Judgement};
use super::word::Word;
use super::words::{DOOR, OTHERS, PATCHED, SiteWords, ThreadSlot, TransitionWords, find};

/// The body that a call by `thread` of this site's function goes to: an address from the site's
/// words. `thread` is the thread pointer; 0 is a thread that has none. The call may be the one at
/// which the thread switches by itself.
///
/// `slots` says where the table is, and is asked for every look at it: it loads the table's pointer
/// with Acquire, so that what it points to is seen as it was when the pointer was stored.
///
/// Lock-free: it starts over only if the site was rewritten meanwhile, which happens twice in a
/// transition.
pub fn dispatch<'a, A: Word + 'a>(
    site: &SiteWords<A>,
    transition: &TransitionWords<A>,
    slots: impl Fn() -> &'a [ThreadSlot<A>],
    thread: u64,
    call: &impl Call,
) -> u64 {
    let mut bodies = site.read();
    loop {
        let (old, new) = bodies;
        if old == new {
            return new;
        }
        let patched = thread_state(transition, &slots, thread, call) == PATCHED;
        let again = site.read();
        if again == bodies {
            return if patched { new } else { old };
        }
        bodies = again;
    }
}

fn thread_state<'a, A: Word + 'a>(
    transition: &TransitionWords<A>,
    slots: &impl Fn() -> &'a [ThreadSlot<A>],
    thread: u64,
    call: &impl Call,
) -> u64 {
    let listed = || own_state(transition, slots(), thread, call);
    listed().unwrap_or_else(|| {
        // ORDERING: Acquire, as in `own_state`; and so that the second look at the table sees a
        // thread that was listed before the others were moved (`ThreadTable::open`), in the table
        // that was there by then. Without it, a thread that was stopped between the two looks, and
        // listed, would move with the others.
        let others = transition.others.load(Ordering::Acquire);
        listed().unwrap_or(others)
    })
}

/// The state of a thread that is listed, unless that is the others' state.
fn own_state<A: Word>(
    transition: &TransitionWords<A>,
    slots: &[ThreadSlot<A>],
    thread: u64,
    call: &impl Call,
) -> Option<u64> {
    let slot = match thread {
        0 => None,
        _ => Some(find(slots, thread)?),
    };
    let word = slot.map_or(&transition.anonymous, |slot| &slot.state);
    // ORDERING: Acquire, so that the second reading of the site in `dispatch` comes after, and if
    // this state belongs to a later transition than the first reading, sees how the one before
    // ended. Peers: `ThreadTable::open` and `switch`.
    let mut state = word.load(Ordering::Acquire);
    if let Some(slot) = slot {
        while state & DOOR != 0 {
            match pass(transition, slot, state, call) {
                Ok(settled) => return Some(settled),
                Err(changed) => state = changed,
            }
        }
    }
    (state != OTHERS).then_some(state)
}

/// Settles the state of a thread whose door was open when it looked: judges the call and does what
/// follows from it. Fails with the new value of the state word if that has changed meanwhile.
fn pass<A: Word>(
    transition: &TransitionWords<A>,
    slot: &ThreadSlot<A>,
    open: u64,
    call: &impl Call,
) -> Result<u64, u64> {
    let own = open & !DOOR;
    let set = |state| {
        // ORDERING: Release, so that what the driver does after it has read the new state (with
        // Acquire) comes after all that the thread has done in the old one. Acquire on failure, as
        // in `own_state`.
        let set = slot.state.compare_exchange(open, state, Ordering::Release);
        set.map(|_| state)
    };
    // ORDERING: Acquire: if the others have moved, what was done before is seen; see
    // `switch_others`.
    let others = transition.others.load(Ordering::Acquire);
    if others == own {
        return set(own);
    }
    match slot.door.judge(call) {
        Judgement::Inside => Ok(own),
        Judgement::Left => set(others),
        Judgement::Lost => set(own),
        Judgement::Elsewhere => {
            slot.door.close();
            set(own)
        }
        // A handler may have interrupted this, and have switched before the door was moved.
        // ORDERING: Acquire, as in `own_state`.
        Judgement::Moved => match slot.state.load(Ordering::Acquire) {
            state if state == open => Ok(own),
            changed => Err(changed),
        },
    }
}
