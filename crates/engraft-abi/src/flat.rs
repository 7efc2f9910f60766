//! Writing a flat buffer whose parts refer to each other by offset.

use alloc::vec::Vec;

use zerocopy::{Immutable, IntoBytes};

use crate::table::{Bytes, Table};

/// Why a flat buffer could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlatError {
    /// There is no memory for it.
    OutOfMemory,
    /// It is larger than 4 GiB: its offsets have 32 bits.
    TooLarge,
}

/// A flat buffer under construction. It starts with a header; tables are 8-byte aligned.
///
/// The first failure is kept until [`Self::finish`]. What is written after it is discarded.
#[derive(Debug)]
pub struct FlatWriter {
    buffer: Vec<u8>,
    failure: Option<FlatError>,
}

impl FlatWriter {
    /// A buffer with room for a header of this type.
    #[must_use]
    pub fn with_header<H>() -> Self {
        let mut writer = Self {
            buffer: Vec::new(),
            failure: None,
        };
        if writer.reserve(size_of::<H>()) {
            writer.buffer.resize(size_of::<H>(), 0);
        }
        writer
    }

    /// Appends bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> Bytes {
        if !self.reserve(bytes.len()) {
            return Bytes {
                offset: 0,
                length: 0,
            };
        }
        // `reserve` has made sure that both fit.
        let offset = self.buffer.len() as u32;
        self.buffer.extend_from_slice(bytes);
        Bytes {
            offset,
            length: bytes.len() as u32,
        }
    }

    /// Appends records.
    pub fn table<T: IntoBytes + Immutable>(&mut self, records: &[T]) -> Table {
        const ALIGNMENT: usize = 8;
        if self.reserve(ALIGNMENT) {
            let aligned = self.buffer.len().next_multiple_of(ALIGNMENT);
            self.buffer.resize(aligned, 0);
        }
        let Bytes { offset, .. } = self.bytes(records.as_bytes());
        Table {
            offset,
            // Not more than there are bytes, or records without a size.
            count: records.len() as u32,
        }
    }

    /// The size of what was written so far, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// Notes that something does not fit.
    pub fn fail_too_large(&mut self) {
        self.failure.get_or_insert(FlatError::TooLarge);
    }

    /// The buffer, with this header at its start.
    ///
    /// # Errors
    /// The first failure of a write.
    pub fn finish<H: IntoBytes + Immutable>(mut self, header: &H) -> Result<Vec<u8>, FlatError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if let Some(start) = self.buffer.get_mut(..size_of::<H>()) {
            start.copy_from_slice(header.as_bytes());
        }
        Ok(self.buffer)
    }

    /// Makes room for as many bytes; false after a failure.
    fn reserve(&mut self, length: usize) -> bool {
        let end = self.buffer.len().saturating_add(length);
        if self.failure.is_none() && u32::try_from(end).is_err() {
            self.failure = Some(FlatError::TooLarge);
        }
        if self.failure.is_none() && self.buffer.try_reserve(length).is_err() {
            self.failure = Some(FlatError::OutOfMemory);
        }
        self.failure.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_found_by_its_offsets() {
        let mut writer = FlatWriter::with_header::<[u64; 2]>();
        let name = writer.bytes(b"name");
        let table = writer.table(&[7_u64, 8]);
        assert_eq!(writer.length(), 40);
        let buffer = writer.finish(&[1_u64, 2]).unwrap();
        assert_eq!(name.of(&buffer), Some(&b"name"[..]));
        assert_eq!((table.offset, table.count), (24, 2));
        assert_eq!(buffer.get(..8), Some(&1_u64.to_le_bytes()[..]));
        assert_eq!(buffer.get(24..32), Some(&7_u64.to_le_bytes()[..]));
    }

    #[test]
    fn the_first_failure_is_told() {
        let mut writer = FlatWriter::with_header::<u64>();
        writer.fail_too_large();
        writer.bytes(b"x");
        assert_eq!(writer.length(), 8);
        assert_eq!(writer.finish(&0_u64), Err(FlatError::TooLarge));
    }
}
