//! The one gateway for following addresses of the target's own memory.
//!
//! # Safety
//! The agent reads structures of the loader and of loaded modules. Their addresses come from the loader,
//! under its lock or with all threads stopped, so they are mapped and do not change meanwhile.

#![expect(unsafe_code, reason = "reads the process's memory by address")]

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

/// A piece of memory that is read at once: each reading by the kernel is a system call. What lies elsewhere is read
/// when it is asked for.
pub(crate) struct Window {
    /// Its address.
    pub start: u64,
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
    Copy([u8; Window::LENGTH as usize]),
    /// The memory itself.
    InPlace,
}

impl Window {
    /// The longest window: room for an ELF header, the program headers and the build-id, which link editors
    /// put behind them; not more than a page, so that all of it is readable if the start of a page is.
    pub(crate) const LENGTH: u64 = 1024;

    /// A window on `length` bytes, or on the first of them.
    #[inline(never)]
    pub(crate) fn at(start: u64, length: u64) -> Self {
        let length = length.min(Self::LENGTH);
        let mut copy = [0; Self::LENGTH as usize];
        let place = copy.get_mut(..length as usize).unwrap_or_default();
        Self {
            start,
            length: match system::read_own_memory(start, place) {
                true => length,
                false => 0,
            },
            content: Content::Copy(copy),
        }
    }

    /// The same on memory that stays where it is as long as the window is used, if it is there: that of an object
    /// which the loader lists, in the hook, that is, under the loader's lock. (In a command, another thread may be
    /// unloading it.) To find out whether it is there costs less than to copy it.
    pub(crate) fn in_place(start: u64, length: u64) -> Self {
        let length = length.min(Self::LENGTH);
        Self {
            start,
            length: match system::is_readable(start, length) {
                true => length,
                false => 0,
            },
            content: Content::InPlace,
        }
    }

    /// A value at an address that may be wrong.
    pub(crate) fn get<T: FromBytes + IntoBytes>(&self, address: u64) -> Option<T> {
        let offset = address.wrapping_sub(self.start);
        let end = offset.saturating_add(size_of::<T>() as u64);
        if end > self.length {
            return probe(address);
        }
        match &self.content {
            Content::Copy(bytes) => {
                T::read_from_bytes(bytes.get(offset as usize..end as usize)?).ok()
            }
            // SAFETY: inside of the window.
            Content::InPlace => Some(unsafe { read(address) }),
        }
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
    fn a_window_shows_what_is_there_and_the_rest_is_read() {
        let data: [u8; 2048] = core::array::from_fn(|index| (index / 7) as u8);
        let address = data.as_ptr().expose_provenance() as u64;
        let window = Window::at(address, Window::LENGTH);
        assert_eq!(window.length, 1024);
        for place in [0, 500, 1016, 1020, 1024, 2040] {
            let want = data[place..].first_chunk().copied();
            assert_eq!(window.get::<[u8; 8]>(address + place as u64), want);
        }
        let nowhere = Window::at(8, Window::LENGTH);
        assert_eq!((nowhere.length, nowhere.get::<u64>(8)), (0, None));
        let elsewhere = nowhere.get::<[u8; 8]>(address);
        assert_eq!(elsewhere, data.first_chunk().copied());
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
