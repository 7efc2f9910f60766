//! Dispatch: which body a thread runs while a transition is open. The words that
//! [`engraft_core::dispatch`] reads are here, and the code of the stubs.
//!
//! A site of a transition jumps to a *stub* in the image of the patch. The stub saves what it uses
//! and jumps to the agent's entry for dispatch. The entry asks [`choose`], restores everything and
//! jumps to the body, with the stack and all registers as the caller left them. Compilers let
//! callers rely on more than the ABI promises of a function that they know (GCC's -fipa-ra), so
//! nothing at all may be changed on the way.

#![expect(
    unsafe_code,
    reason = "patched code passes addresses of words; the table of threads is replaced at run time"
)]

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use engraft_core::ThreadId;
use engraft_core::dispatch::{SiteWords, ThreadSlot, ThreadTable, TransitionWords, dispatch};

use crate::patch::caller_frame::CallerFrame;
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

/// The table of blocked threads. The first slot is a header: its `thread` is the number of slots
/// that follow. Null before the first transition with blocked threads.
static TABLE: AtomicPtr<ThreadSlot> = AtomicPtr::new(core::ptr::null_mut());

/// The address of the body for a call of the function with these words, made by the thread with
/// this thread pointer. `entry` is the stack pointer at the function's entry.
///
/// # Safety
/// The words are those of a stub, which stay as long as a thread can be inside it. The calling
/// thread is the one whose stack `entry` is on.
#[cfg_attr(
    not(feature = "freestanding"),
    expect(dead_code, reason = "only the entry for stubs calls it")
)]
pub(crate) unsafe extern "C" fn choose(words: *const SiteWords, thread: u64, entry: u64) -> u64 {
    // SAFETY: the caller's promise.
    let words = unsafe { &*words };
    // SAFETY: the caller's promise.
    let call = unsafe { CallerFrame::at(entry) };
    dispatch(words, &TRANSITION, slots, thread, &call)
}

/// The slots of the table.
fn slots() -> &'static [ThreadSlot] {
    // ORDERING: Acquire, so that a new table's slots are seen with its address; the peer is
    // `reserve`.
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

/// The side that writes. Only for the holder of the agent's lock.
pub(crate) fn table() -> ThreadTable<'static> {
    ThreadTable {
        transition: &TRANSITION,
        slots: slots(),
    }
}

/// The word with the state of all threads that are not listed.
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
/// A table that is too small is replaced by a larger one with the same entries. The old table is
/// never freed, because a thread may be asleep while it reads it. Each table is at least twice as
/// large as the one before, so all old tables together are smaller than the one in use.
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
        // The copy cannot fail: the new table is at least half empty.
        new.copy(old).map_err(|_| Failure::out_of_memory())?;
    }
    // ORDERING: Release, so that a thread that sees the address sees the slots; the peer is
    // `slots`. Sites of the transition for which the table is made begin to choose after this.
    TABLE.store(slots.as_mut_ptr(), Ordering::Release);
    Ok(())
}

/// The code of a stub: `lea rsp, [rsp - 8]; push r11; movabs r11, words; jmp [rip]; .quad entry`.
/// It leaves a free word on the stack for the chosen body's address, and changes no flag. It works
/// at any address.
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
