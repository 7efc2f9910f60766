//! How memory is read: the one thing that differs between the users of this crate.

use object::LittleEndian;
use object::endian::{U16, U32};
use object::pod::{self, Pod};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::{Error, too_long};

/// The order of bytes in every file that is read.
pub(crate) const ENDIAN: LittleEndian = LittleEndian;

/// Memory that is read by address. A closure is one.
pub trait ReadMemory {
    /// Why it could not be read.
    type Error;

    /// Fills the buffer from `address` on.
    ///
    /// # Errors
    /// If not all of it can be read. What is in the buffer then means nothing.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Self::Error>;
}

impl<F, E> ReadMemory for F
where
    F: Fn(u64, &mut [u8]) -> Result<(), E>,
{
    type Error = E;

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), E> {
        self(address, buffer)
    }
}

/// Memory of which one piece was read before, all at once: each read may be a system call.
pub struct Window<'w, M: ?Sized> {
    start: u64,
    bytes: &'w [u8],
    beyond: &'w M,
}

impl<'w, M: ReadMemory + ?Sized> Window<'w, M> {
    /// A window on `bytes`, which are at `start`. What lies outside of them is read from `beyond`.
    pub fn new(start: u64, bytes: &'w [u8], beyond: &'w M) -> Self {
        Self {
            start,
            bytes,
            beyond,
        }
    }

    fn find(&self, address: u64, length: usize) -> Option<&'w [u8]> {
        let offset = usize::try_from(address.wrapping_sub(self.start)).ok()?;
        self.bytes.get(offset..offset.checked_add(length)?)
    }
}

impl<M: ReadMemory + ?Sized> ReadMemory for Window<'_, M> {
    type Error = M::Error;

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), M::Error> {
        let Some(bytes) = self.find(address, buffer.len()) else {
            return self.beyond.read(address, buffer);
        };
        // Not `copy_from_slice`, which panics where the lengths differ: they are equal, but the
        // agent is checked for panics in its machine code.
        for (byte, found) in buffer.iter_mut().zip(bytes) {
            *byte = *found;
        }
        Ok(())
    }
}

/// An ELF record.
pub(crate) fn record<T, M>(memory: &M, address: u64) -> Result<T, Error<M::Error>>
where
    T: Pod,
    M: ReadMemory + ?Sized,
{
    /// The size of the largest record: a file header.
    const LARGEST: usize = 64;
    const { assert!(size_of::<T>() <= LARGEST) };
    let mut bytes = [0; LARGEST];
    let length = size_of::<T>() as u64;
    let place = match bytes.get_mut(..size_of::<T>()) {
        Some(place) => place,
        None => return Err(too_long(address, length, LARGEST as u64)),
    };
    memory.read(address, place).map_err(Error::Memory)?;
    // The records have no alignment, and the bytes are as many as the record has: this does not
    // fail.
    let (record, _) =
        pod::from_bytes::<T>(place).map_err(|()| too_long(address, length, LARGEST as u64))?;
    Ok(*record)
}

/// A half-word, in ELF's words.
pub(crate) fn half<M>(memory: &M, address: u64) -> Result<u16, Error<M::Error>>
where
    M: ReadMemory + ?Sized,
{
    record::<U16<LittleEndian>, M>(memory, address).map(|half| half.get(ENDIAN))
}

/// A word, in ELF's words: four bytes.
pub(crate) fn word<M>(memory: &M, address: u64) -> Result<u32, Error<M::Error>>
where
    M: ReadMemory + ?Sized,
{
    record::<U32<LittleEndian>, M>(memory, address).map(|word| word.get(ENDIAN))
}

/// A record of the loader's.
pub(crate) fn structure<T, M>(memory: &M, address: u64) -> Result<T, M::Error>
where
    T: FromBytes + IntoBytes,
    M: ReadMemory + ?Sized,
{
    let mut value = T::new_zeroed();
    memory.read(address, value.as_mut_bytes())?;
    Ok(value)
}

/// Whether the null-terminated string at `address` is `wanted`.
///
/// The string is read in pieces that lie in one page each: it may be shorter than `wanted`, and end
/// before a hole.
pub(crate) fn string_is<M>(
    memory: &M,
    mut address: u64,
    wanted: &[u8],
) -> Result<bool, Error<M::Error>>
where
    M: ReadMemory + ?Sized,
{
    /// Divides every page size.
    const PIECE: usize = 256;
    let mut rest = wanted;
    loop {
        let room = PIECE.saturating_sub(address as usize % PIECE);
        let length = room.min(rest.len().saturating_add(1));
        let mut piece = [0; PIECE];
        let piece = piece.get_mut(..length).unwrap_or_default();
        memory.read(address, piece).map_err(Error::Memory)?;
        let text = rest.get(..length).unwrap_or(rest);
        if !piece.starts_with(text) {
            return Ok(false);
        }
        if let Some(end) = piece.get(text.len()) {
            return Ok(*end == 0);
        }
        rest = rest.get(length..).unwrap_or_default();
        address = address.wrapping_add(length as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes at 0x1000, with nothing around them.
    fn only(bytes: &[u8]) -> impl ReadMemory<Error = ()> {
        move |address: u64, buffer: &mut [u8]| {
            let offset = address.checked_sub(0x1000).ok_or(())? as usize;
            let end = offset.checked_add(buffer.len()).ok_or(())?;
            buffer.copy_from_slice(bytes.get(offset..end).ok_or(())?);
            Ok(())
        }
    }

    #[test]
    fn a_window_shows_its_bytes_and_reads_what_is_outside() {
        let memory = only(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let window = Window::new(0x1002, &[30, 40, 50, 60], &memory);
        assert_eq!(
            word(&window, 0x1002),
            Ok(u32::from_le_bytes([30, 40, 50, 60]))
        );
        assert_eq!(half(&window, 0x1004), Ok(u16::from_le_bytes([50, 60])));
        // Partly outside: all of it is read.
        assert_eq!(word(&window, 0x1003), Ok(u32::from_le_bytes([4, 5, 6, 7])));
        assert_eq!(word(&window, 0x1005), Err(Error::Memory(())));
        assert_eq!(word(&window, u64::MAX), Err(Error::Memory(())));
    }

    #[test]
    fn strings_are_compared_up_to_their_end() {
        let memory = only(b"name\0other");
        assert_eq!(string_is(&memory, 0x1000, b"name"), Ok(true));
        assert_eq!(string_is(&memory, 0x1000, b"nam"), Ok(false));
        assert_eq!(string_is(&memory, 0x1000, b"name\0"), Ok(false));
        assert_eq!(string_is(&memory, 0x1004, b""), Ok(true));
        // The memory ends before the string does.
        assert_eq!(string_is(&memory, 0x1005, b"other"), Err(Error::Memory(())));
    }

    #[test]
    fn a_string_that_is_shorter_than_wanted_may_end_before_a_hole() {
        let mut bytes = [b'x'; 0x100];
        bytes[0xff] = 0;
        let memory = only(&bytes);
        assert_eq!(string_is(&memory, 0x10f0, &[b'x'; 40]), Ok(false));
        assert_eq!(string_is(&memory, 0x1000, &[b'x'; 0xff]), Ok(true));
        assert_eq!(string_is(&memory, 0x1000, &[b'x'; 0x100]), Ok(false));
    }

    #[test]
    fn a_long_string_is_compared_piece_by_piece() {
        let mut bytes = [b'x'; 1000];
        bytes[900] = 0;
        let memory = only(&bytes);
        assert_eq!(string_is(&memory, 0x1000, &[b'x'; 900]), Ok(true));
        assert_eq!(string_is(&memory, 0x1000, &[b'x'; 899]), Ok(false));
        assert_eq!(string_is(&memory, 0x1001, &[b'x'; 900]), Ok(false));
    }
}
