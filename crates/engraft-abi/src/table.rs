//! References from one part of a flat buffer to another.

use core::mem::size_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `length` bytes at `offset` from the start of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Bytes {
    /// From the start of the buffer, in bytes.
    pub offset: u32,
    /// In bytes.
    pub length: u32,
}

impl Bytes {
    /// The bytes; `None` if they reach beyond the buffer.
    pub fn of(self, buffer: &[u8]) -> Option<&[u8]> {
        let start = self.offset as usize;
        buffer.get(start..start.checked_add(self.length as usize)?)
    }
}

/// `count` records at `offset` from the start of the buffer, 8-byte aligned. The field's
/// documentation says which record type it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Table {
    /// From the start of the buffer, in bytes.
    pub offset: u32,
    /// Number of records.
    pub count: u32,
}

impl Table {
    /// The records; `None` if they reach beyond the buffer or the buffer is not aligned for them.
    pub fn of<T: FromBytes + Immutable>(self, buffer: &[u8]) -> Option<&[T]> {
        let start = self.offset as usize;
        let length = (self.count as usize).checked_mul(size_of::<T>())?;
        let bytes = buffer.get(start..start.checked_add(length)?)?;
        <[T]>::ref_from_bytes(bytes).ok()
    }
}
