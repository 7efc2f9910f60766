//! Call frame information of new code, for the target's unwinder: which images there are, and where
//! the `.eh_frame` of each is.
//!
//! Any thread may call [`find`] at any point, for every frame of an exception: in a signal handler,
//! or while another thread adds or removes an image. So it takes no lock and allocates nothing. The
//! list only grows. The entry of an image that is gone is used again for another one.

#![expect(
    unsafe_code,
    reason = "follows the list and the records of images by address"
)]

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use engraft_machine::PAGE_SIZE;

use crate::system::failure::Failure;
use crate::system::memory::read;

/// One image.
///
/// The range of its code is one word, so that no reader sees half of a change. A thread that asks
/// for an address in the code has a frame there, and an image with a frame in it is not removed. So
/// the other two words do not change while they are read.
struct Entry {
    /// See [`packed`]; 0 for none.
    code: AtomicU64,
    /// Address of its call frame information,
    unwind: AtomicU64,
    /// and its size in bytes.
    size: AtomicU64,
    /// Never changes.
    next: *const Entry,
}

static LIST: AtomicPtr<Entry> = AtomicPtr::new(core::ptr::null_mut());

/// All entries that were ever made.
fn entries() -> impl Iterator<Item = &'static Entry> {
    // ORDERING: Acquire, so that an entry's `next` is seen with its address; the peer is `add`.
    let first = LIST.load(Ordering::Acquire).cast_const();
    // SAFETY: entries are never freed, and complete when they are published.
    let entry = |address: *const Entry| unsafe { address.as_ref() };
    core::iter::successors(entry(first), move |before| entry(before.next))
}

const PAGE_BITS: u32 = PAGE_SIZE.trailing_zeros();
const LENGTH_BITS: u32 = 20;

/// The start and the number of pages of code, in one word. An image starts at a page, is shorter
/// than 2 GiB, and has nothing but code in these pages.
fn packed(code: &Range<u64>) -> u64 {
    let pages = (code.end - code.start).div_ceil(1 << PAGE_BITS);
    (code.start >> PAGE_BITS) << LENGTH_BITS | pages
}

fn contains(packed: u64, address: u64) -> bool {
    let pages = packed & ((1 << LENGTH_BITS) - 1);
    (address >> PAGE_BITS).wrapping_sub(packed >> LENGTH_BITS) < pages
}

/// Adds the call frame information of an image. Only for the holder of the agent's lock.
pub(crate) fn add(code: &Range<u64>, unwind: Range<u64>) -> Result<(), Failure> {
    let fill = |entry: &Entry| {
        // ORDERING: the Release of `code` below orders it.
        entry.unwind.store(unwind.start, Ordering::Relaxed);
        entry
            .size
            .store(unwind.end - unwind.start, Ordering::Relaxed);
        // ORDERING: Release: a thread that sees this word sees the other two; the peer is `find`.
        entry.code.store(packed(code), Ordering::Release);
    };
    // ORDERING: only the holder of the lock writes.
    let mut free = entries().filter(|entry| entry.code.load(Ordering::Relaxed) == 0);
    if let Some(entry) = free.next() {
        fill(entry);
        return Ok(());
    }
    let mut room = Vec::new();
    room.try_reserve_exact(1)
        .map_err(|_| Failure::out_of_memory())?;
    let entry = Entry {
        code: AtomicU64::new(0),
        unwind: AtomicU64::new(0),
        size: AtomicU64::new(0),
        // ORDERING: only the holder of the lock writes.
        next: LIST.load(Ordering::Relaxed),
    };
    fill(&entry);
    room.push(entry);
    // ORDERING: Release, so that a thread that sees the address sees the entry; the peer is
    // `entries`.
    LIST.store(room.leak().as_mut_ptr(), Ordering::Release);
    Ok(())
}

/// Removes the image that starts at `base`, if it is listed. Only for the holder of the agent's
/// lock, before the image is unmapped.
pub(crate) fn remove(base: u64) {
    for entry in entries() {
        // ORDERING: only the holder of the lock writes.
        if contains(entry.code.load(Ordering::Relaxed), base) {
            // ORDERING: no thread has a frame in it, so no thread asks.
            entry.code.store(0, Ordering::Relaxed);
        }
    }
}

/// `struct dwarf_eh_bases` of libgcc: what addresses in an FDE may be relative to, and where its
/// function starts.
#[repr(C)]
pub(crate) struct Bases {
    text: u64,
    data: u64,
    function: u64,
}

/// The FDE of the new code at `address`, with its bases; 0 if no new code is there.
///
/// # Safety
/// In place of `_Unwind_Find_FDE`: `address` is inside the code of a frame of the calling thread.
pub(crate) unsafe extern "C" fn find(address: u64, bases: *mut Bases) -> u64 {
    // ORDERING: Acquire, so that the other two words belong to this one; the peer is `add`.
    let mut known = entries().filter(|entry| contains(entry.code.load(Ordering::Acquire), address));
    let Some(entry) = known.next() else {
        return 0;
    };
    // ORDERING: they do not change as long as the frame is there.
    let start = entry.unwind.load(Ordering::Relaxed);
    // ORDERING: the same.
    let end = start + entry.size.load(Ordering::Relaxed);
    // SAFETY: the image is not taken away under the frame.
    let Some((fde, function)) = (unsafe { fde(start..end, address) }) else {
        return 0;
    };
    // No pointer in the agent's FDEs is relative to the other two.
    let found = Bases {
        text: 0,
        data: 0,
        function,
    };
    // SAFETY: the caller of `_Unwind_Find_FDE` has room for them.
    unsafe { bases.write(found) };
    fde
}

/// The FDE for an address in an `.eh_frame` section, and where its function starts. The builder
/// makes sure that every FDE has its function's address as a PC-relative word, and its size as a
/// word.
///
/// # Safety
/// The range is readable.
unsafe fn fde(section: Range<u64>, address: u64) -> Option<(u64, u64)> {
    let mut entry = section.start;
    // A zero word ends the section; an FDE has four words at least.
    while entry + 16 <= section.end {
        // SAFETY: inside the section.
        let [length, id, start, size] = unsafe { read::<[u32; 4]>(entry) };
        if length == 0 {
            return None;
        }
        let function = (entry + 8).wrapping_add_signed(i64::from(start.cast_signed()));
        // An entry without a distance to a CIE is a CIE itself.
        if id != 0 && address.wrapping_sub(function) < u64::from(size) {
            return Some((entry, function));
        }
        entry += 4 + u64::from(length);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CIE, and FDEs with their function's distance from the start of the section, and its size.
    fn section(functions: &[(u32, u32)]) -> Vec<u8> {
        let mut words: Vec<u32> = [12, 0, 0x0052_7a01, 0].to_vec();
        for &(function, size) in functions {
            let place = words.len() as u32 * 4;
            words.extend([16, place + 4, function.wrapping_sub(place + 8), size, 0]);
        }
        words.push(0);
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn look_up(address: u64) -> Option<(u64, u64)> {
        let mut bases = Bases {
            text: 1,
            data: 1,
            function: 1,
        };
        // SAFETY: the images of these tests are in memory that stays.
        let fde = unsafe { find(address, &raw mut bases) };
        (fde != 0).then(|| {
            assert_eq!((bases.text, bases.data), (0, 0));
            (fde, bases.function)
        })
    }

    #[test]
    fn the_entry_of_an_address_is_found_and_forgotten() {
        let bytes = section(&[(0x10_0000, 0x20), (0x10_0020, 0x10), (0x10_0040, 4)]);
        let start = bytes.as_ptr().expose_provenance() as u64;
        let text = start + 0x10_0000;
        // The page that the functions lie in, and the one after it.
        let base = text & !0xfff;
        let unwind = start..start + bytes.len() as u64;
        assert_eq!(look_up(text), None);
        assert!(add(&(base..text + 0x44), unwind.clone()).is_ok());
        assert_eq!(look_up(text), Some((start + 16, text)));
        assert_eq!(look_up(text + 0x1f), Some((start + 16, text)));
        assert_eq!(look_up(text + 0x20), Some((start + 36, text + 0x20)));
        assert_eq!(look_up(text + 0x43), Some((start + 56, text + 0x40)));
        // A trampoline, say.
        assert_eq!(look_up(text + 0x30), None);
        assert_eq!(look_up(text + 0x44), None);
        assert_eq!(look_up(base.wrapping_sub(1)), None);
        assert_eq!(look_up(0), None);

        // The one that comes next does not show what is left of this one.
        remove(base);
        assert_eq!(look_up(text), None);
        let other = 0x7fff_0000_0000;
        assert!(add(&(other..other + 0x1000), unwind).is_ok());
        assert_eq!(look_up(text), None);
        remove(other);
        assert_eq!(entries().count(), 1);
    }

    #[test]
    fn a_section_that_has_no_end_is_left_at_its_end() {
        let mut bytes = section(&[(0x10_0000, 0x20)]);
        bytes.truncate(bytes.len() - 4);
        let start = bytes.as_ptr().expose_provenance() as u64;
        let end = start + bytes.len() as u64;
        // SAFETY: this test's memory.
        let found = |address| unsafe { fde(start..end, start + address) };
        assert_eq!(found(0x10_0000), Some((start + 16, start + 0x10_0000)));
        assert_eq!(found(0x10_0020), None);
    }
}
