//! The one gateway for following addresses of the target's own memory.
//!
//! # Safety
//! The agent reads structures of the loader and of loaded modules. Their addresses come from the
//! loader, under its lock or with all threads stopped, so they are mapped and do not change
//! meanwhile.

#![expect(unsafe_code, reason = "reads the process's memory by address")]

use engraft_elf::{ReadMemory, Window};
use zerocopy::{FromBytes, IntoBytes};

use crate::system;

/// A value at an address that is known to be mapped.
///
/// # Safety
/// `size_of::<T>()` bytes at `address` must be readable and not change during the call.
pub(crate) unsafe fn read<T: FromBytes>(address: u64) -> T {
    let pointer = core::ptr::with_exposed_provenance::<T>(address as usize);
    // SAFETY: readable by the caller's promise; any bytes make a T; no alignment is needed.
    unsafe { pointer.read_unaligned() }
}

/// Memory that is known to be mapped and does not change while the slice is used.
///
/// # Safety
/// `length` bytes at `address` must stay readable and unchanged as long as the slice is used.
pub(crate) unsafe fn bytes<'a>(address: u64, length: usize) -> &'a [u8] {
    let pointer = core::ptr::with_exposed_provenance::<u8>(address as usize);
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(pointer, length) }
}

/// Copies memory that is known to be mapped.
///
/// # Safety
/// As many bytes as the buffer has must be readable at `address` and not change during the call.
pub(crate) unsafe fn copy(address: u64, buffer: &mut [u8]) {
    let from = core::ptr::with_exposed_provenance::<u8>(address as usize);
    // SAFETY: the caller's promise; the buffer is as long.
    unsafe { core::ptr::copy(from, buffer.as_mut_ptr(), buffer.len()) };
}

/// Memory of ours that we are about to fill.
///
/// # Safety
/// `length` bytes at `address` must be writable and used by nobody else as long as the slice lives.
pub(crate) unsafe fn bytes_mut<'a>(address: u64, length: usize) -> &'a mut [u8] {
    let pointer = core::ptr::with_exposed_provenance_mut::<u8>(address as usize);
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts_mut(pointer, length) }
}

/// A value at an address that may be wrong: the kernel does the reading, and refuses politely.
pub(crate) fn probe<T: FromBytes + IntoBytes>(address: u64) -> Option<T> {
    let mut value = T::new_zeroed();
    system::read_own_memory(address, value.as_mut_bytes()).then_some(value)
}

/// The memory of this process, read by the kernel: a wrong address is an answer.
pub(crate) struct OwnMemory;

/// There is nothing to read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

impl ReadMemory for OwnMemory {
    type Error = Unreadable;

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        match system::read_own_memory(address, buffer) {
            true => Ok(()),
            false => Err(Unreadable),
        }
    }
}

/// A piece of memory that is read at once: each read by the kernel is a system call.
pub(crate) struct AtOnce {
    start: u64,
    /// How many bytes can be read: 0 if not all can.
    length: u64,
    content: Content,
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, on the stack"
)]
enum Content {
    /// The bytes that were there.
    Copy([u8; AtOnce::LENGTH as usize]),
    /// The memory itself.
    InPlace,
}

impl AtOnce {
    /// The longest piece: room for an ELF header, the program headers and the build-id, which link
    /// editors put after them; not more than a page, so that all of it is readable if the start of
    /// a page is. Two of them are on the agent's stack at its deepest, of which two pages are in
    /// use.
    pub(crate) const LENGTH: u64 = 960;

    /// A copy of `length` bytes, or of the first of them.
    #[inline(never)]
    pub(crate) fn copy(start: u64, length: u64) -> Self {
        let length = length.min(Self::LENGTH);
        // Filled where it is going to be: another copy would be a quarter of a page of the agent's
        // stack.
        let mut at_once = Self {
            start,
            length,
            content: Content::Copy([0; Self::LENGTH as usize]),
        };
        if let Content::Copy(copy) = &mut at_once.content
            && !system::read_own_memory(start, copy.get_mut(..length as usize).unwrap_or_default())
        {
            at_once.length = 0;
        }
        at_once
    }

    /// Memory that stays where it is as long as this is used, if it is there: that of an object
    /// which the loader lists, in the hook, that is, under the loader's lock. (In a command,
    /// another thread may be unloading it.) To find out whether it is there costs less than to copy
    /// it.
    pub(crate) fn in_place(start: u64) -> Self {
        Self {
            start,
            length: match system::is_readable(start, Self::LENGTH) {
                true => Self::LENGTH,
                false => 0,
            },
            content: Content::InPlace,
        }
    }

    /// A window on these bytes. What lies elsewhere is read by the kernel.
    pub(crate) fn window(&self) -> Window<'_, OwnMemory> {
        let length = self.length as usize;
        let bytes = match &self.content {
            Content::Copy(copy) => copy.get(..length).unwrap_or_default(),
            Content::InPlace if length == 0 => &[],
            // SAFETY: it is readable, and under the loader's lock nobody changes the beginning of a
            // file.
            Content::InPlace => unsafe { bytes(self.start, length) },
        };
        Window::new(self.start, bytes, &OwnMemory)
    }
}

/// Compares memory with `expected`, in pieces, without trusting the address.
pub(crate) fn equals(mut address: u64, expected: &[u8]) -> Result<(), Difference> {
    let mut found = [0; 256];
    for piece in expected.chunks(found.len()) {
        let found = found.get_mut(..piece.len()).unwrap_or_default();
        if !system::read_own_memory(address, found) {
            return Err(Difference { address });
        }
        if let Some(index) = found
            .iter()
            .zip(piece)
            .position(|(found, want)| found != want)
        {
            return Err(Difference {
                address: address + index as u64,
            });
        }
        address += piece.len() as u64;
    }
    Ok(())
}

/// Where memory is not what was expected, or cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The first such byte.
    pub address: u64,
}

/// The bytes of a C string, without its end; at most 4096 of them.
///
/// # Safety
/// A C string must be at `address` and not change as long as the slice is used.
pub(crate) unsafe fn c_string<'a>(address: u64) -> &'a [u8] {
    const LONGEST: u64 = 4096;
    let mut length = 0;
    // SAFETY: the string has no end yet, so this byte belongs to it.
    while length < LONGEST && unsafe { read::<u8>(address + length) } != 0 {
        length += 1;
    }
    // SAFETY: `length` bytes were just read.
    unsafe { bytes(address, length as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_address_is_an_answer() {
        assert_eq!(probe::<u64>(8), None);
        assert_eq!(equals(8, b"x"), Err(Difference { address: 8 }));
    }

    #[test]
    fn what_is_read_at_once_is_there_and_the_rest_is_read_later() {
        let data: [u8; 2048] = core::array::from_fn(|index| (index / 7) as u8);
        let address = data.as_ptr().expose_provenance() as u64;
        let read = |at_once: &AtOnce, address| {
            let mut found = [0; 8];
            at_once.window().read(address, &mut found).map(|()| found)
        };
        let copy = AtOnce::copy(address, AtOnce::LENGTH);
        let in_place = AtOnce::in_place(address);
        let end = AtOnce::LENGTH as usize;
        assert_eq!((copy.length, in_place.length), (960, 960));
        for place in [0, 500, end - 8, end - 4, end, 2040] {
            let want = data[place..].first_chunk().copied().ok_or(Unreadable);
            assert_eq!(read(&copy, address + place as u64), want);
            assert_eq!(read(&in_place, address + place as u64), want);
        }
        for nowhere in [AtOnce::copy(8, AtOnce::LENGTH), AtOnce::in_place(8)] {
            assert_eq!((nowhere.length, read(&nowhere, 8)), (0, Err(Unreadable)));
            let elsewhere = read(&nowhere, address).ok();
            assert_eq!(elsewhere.as_ref(), data.first_chunk());
        }
    }

    #[test]
    fn the_first_different_byte_is_named() {
        let data: [u8; 600] = core::array::from_fn(|index| index as u8);
        let address = data.as_ptr().expose_provenance() as u64;
        let mut expected = data;
        assert_eq!(equals(address, &expected), Ok(()));
        expected[555] ^= 1;
        assert_eq!(
            equals(address, &expected),
            Err(Difference {
                address: address + 555
            })
        );
    }
}
