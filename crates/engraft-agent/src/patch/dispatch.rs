//! Where each thread goes while a transition is on: the words that [`engraft_core::dispatch`] reads, and the
//! stubs that lead to it.
//!
//! A site of a transition jumps to a *stub* in the image of the patch, which saves what it uses and jumps to
//! the agent's entry for dispatch; that one asks [`choose`], restores everything and jumps to the body, with
//! the stack and all registers as the caller left them. Compilers let callers rely on more than the ABI
//! promises of a function that they know (GCC's -fipa-ra), so nothing at all may be changed on the way.

#![expect(
    unsafe_code,
    reason = "patched code passes addresses of words; the table of threads is replaced at run time"
)]

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use engraft_core::ThreadId;
use engraft_core::dispatch::{SiteWords, ThreadSlot, ThreadTable, TransitionWords, dispatch};

use crate::patch::caller::Caller;
use crate::system::failure::Failure;

const _: () = assert!(engraft_core::dispatch::DOOR == engraft_abi::STATE_HAS_DOOR);

/// Length of a stub, in bytes.
pub(crate) const STUB_LENGTH: usize = 31;

/// Whether `rdfsbase` may be used.
pub(crate) static HAS_FSGSBASE: AtomicBool = AtomicBool::new(false);

static TRANSITION: TransitionWords = TransitionWords {
    others: AtomicU64::new(0),
    anonymous: AtomicU64::new(0),
};

/// The table of threads: the first slot's `thread` is the number of those behind it. Null before the first
/// transition that leaves threads behind.
static TABLE: AtomicPtr<ThreadSlot> = AtomicPtr::new(core::ptr::null_mut());

/// The body for a call, by the thread with this thread pointer, of the function with these words. `entry` is the
/// stack pointer at the function's entry.
///
/// # Safety
/// Only for a stub's words, which stay as long as a thread can be inside the stub; by the thread whose stack
/// it is.
#[cfg_attr(
    not(feature = "freestanding"),
    expect(dead_code, reason = "only the entry for stubs calls it")
)]
pub(crate) unsafe extern "C" fn choose(words: *const SiteWords, thread: u64, entry: u64) -> u64 {
    // SAFETY: the caller's promise.
    let words = unsafe { &*words };
    // SAFETY: the caller's promise.
    let call = unsafe { Caller::at(entry) };
    dispatch(words, &TRANSITION, slots, thread, &call)
}

/// The table as it is now.
fn slots() -> &'static [ThreadSlot] {
    // ORDERING: Acquire, so that a new table's slots are seen with its address; the peer is `reserve`.
    let table = TABLE.load(Ordering::Acquire);
    // SAFETY: a table that was published once is never freed.
    let Some(header) = (unsafe { table.as_ref() }) else {
        return &[];
    };
    // ORDERING: written before the table was published.
    let length = header.thread.load(Ordering::Relaxed) as usize;
    // SAFETY: that many slots follow the first one.
    unsafe { core::slice::from_raw_parts(table.wrapping_add(1), length) }
}

/// The writer's side: only for whoever holds the agent's lock.
pub(crate) fn table() -> ThreadTable<'static> {
    ThreadTable {
        transition: &TRANSITION,
        slots: slots(),
    }
}

/// The word that says where threads are that are not listed.
pub(crate) fn others_word() -> &'static AtomicU64 {
    &TRANSITION.others
}

/// The word with a thread's own state; `None` if it is not listed.
pub(crate) fn thread_word(thread: ThreadId) -> Option<&'static AtomicU64> {
    match thread {
        ThreadId(0) => Some(&TRANSITION.anonymous),
        _ => table().state_word(thread),
    }
}

/// Makes room for `count` more threads than are listed now.
///
/// A table that is too small is replaced by one with the same slots; it stays where it is, because a thread
/// may be asleep in the middle of reading it. Each is at least twice as large as the one before, so all that
/// were left together are smaller than the one in use.
pub(crate) fn reserve(count: usize) -> Result<(), Failure> {
    let old = slots();
    // ORDERING: only the holder of the lock writes.
    let listed = |slot: &&ThreadSlot| slot.thread.load(Ordering::Relaxed) != 0;
    let used = old.iter().filter(listed).count();
    // Half empty, so that probing stays short.
    let wanted = (used + count) * 2;
    if wanted <= old.len() {
        return Ok(());
    }
    let length = wanted.max(old.len() * 2).next_power_of_two().max(16);
    let mut slots: Vec<ThreadSlot> = Vec::new();
    slots
        .try_reserve_exact(length + 1)
        .map_err(|_| Failure::out_of_memory())?;
    slots.resize_with(length + 1, ThreadSlot::default);
    let slots = slots.leak();
    if let Some((header, rest)) = slots.split_first() {
        // ORDERING: nobody sees the new table yet.
        header.thread.store(length as u64, Ordering::Relaxed);
        let new = ThreadTable {
            transition: &TRANSITION,
            slots: rest,
        };
        // Twice as large as what it lists.
        new.copy(old).map_err(|_| Failure::out_of_memory())?;
    }
    // ORDERING: Release, so that whoever sees the address sees the slots; the peer is `slots`. Sites of the
    // transition for which the table is made begin to choose after this.
    TABLE.store(slots.as_mut_ptr(), Ordering::Release);
    Ok(())
}

/// The code of a stub: `lea rsp, [rsp - 8]; push r11; movabs r11, words; jmp [rip]; .quad entry`. It leaves
/// room for the chosen body's address, and no flag is touched. Works at any address.
pub(crate) fn stub(words: u64, entry: u64) -> [u8; STUB_LENGTH] {
    let mut stub = [
        0x48, 0x8d, 0x64, 0x24, 0xf8, 0x41, 0x53, 0x49, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0x25,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    for (offset, value) in [(9, words), (23, entry)] {
        let place = stub.iter_mut().skip(offset);
        place
            .zip(value.to_le_bytes())
            .for_each(|(to, from)| *to = from);
    }
    stub
}
