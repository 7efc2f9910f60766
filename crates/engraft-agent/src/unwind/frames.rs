//! Call frame information of new code, for the unwinder of the target: which images there are, and where each has
//! its `.eh_frame`.
//!
//! [`find`] is called for every frame of every exception, by any thread, at any point: in a signal handler, or
//! while another thread brings or takes an image. So it takes no lock and no memory. The list only grows; an
//! entry whose image has gone is used again for another one.

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
/// Which code it has is one word, so that nobody sees half of a change. Whoever is asked for an address inside
/// has a frame there, and images in which a frame may be are not taken away: what belongs to the word stays
/// as it is meanwhile.
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

/// Where code starts, and how many pages it has: images start at a page, end within reach of a 32-bit jump, and
/// have nothing but code in these pages.
fn packed(code: &Range<u64>) -> u64 {
    let pages = (code.end - code.start).div_ceil(1 << PAGE_BITS);
    (code.start >> PAGE_BITS) << LENGTH_BITS | pages
}

fn contains(packed: u64, address: u64) -> bool {
    let pages = packed & ((1 << LENGTH_BITS) - 1);
    (address >> PAGE_BITS).wrapping_sub(packed >> LENGTH_BITS) < pages
}

/// Makes an image's call frame information known. Only for the holder of the agent's lock, as is [`remove`].
pub(crate) fn add(code: &Range<u64>, unwind: Range<u64>) -> Result<(), Failure> {
    let fill = |entry: &Entry| {
        // ORDERING: before the word that says that they count.
        entry.unwind.store(unwind.start, Ordering::Relaxed);
        entry
            .size
            .store(unwind.end - unwind.start, Ordering::Relaxed);
        // ORDERING: Release: whoever sees the word sees the other two; the peer is `find`.
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
    // ORDERING: Release, so that whoever sees the address sees the entry; the peer is `entries`.
    LIST.store(room.leak().as_mut_ptr(), Ordering::Release);
    Ok(())
}

/// Forgets the image that starts here, if it is known: it is about to go.
pub(crate) fn remove(base: u64) {
    for entry in entries() {
        // ORDERING: only the holder of the lock writes.
        if contains(entry.code.load(Ordering::Relaxed), base) {
            // ORDERING: nobody has a frame in it, so nobody asks.
            entry.code.store(0, Ordering::Relaxed);
        }
    }
}

/// `struct dwarf_eh_bases` of libgcc: what addresses in an FDE may be relative to, and where its function starts.
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
    // ORDERING: Acquire: the other two words are those that belong to this one; the peer is `add`.
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
    // No pointer of ours is relative to the other two.
    let found = Bases {
        text: 0,
        data: 0,
        function,
    };
    // SAFETY: the caller of `_Unwind_Find_FDE` has room for them.
    unsafe { bases.write(found) };
    fde
}

/// The FDE for an address among the entries of an `.eh_frame` section, and where its function starts. The builder
/// makes sure that all of them have their function's address as a PC-relative word, and its size as a word.
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
        // What has no distance to a CIE is one itself.
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
