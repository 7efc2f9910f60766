//! Addresses of the target, kept apart from our own pointers.

use std::fmt;
use std::ops::{Add, Range, Sub};

/// An address in the target's address space.
///
/// An address is never a pointer of ours and cannot be dereferenced; [`crate::Memory`] reads and
/// writes there. Arithmetic wraps, because every operand may come from the target.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TargetAddress(u64);

impl TargetAddress {
    /// The address with this value.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The address as a number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The null address.
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The nearest address at or below this one that is a multiple of `alignment` (a power of two).
    pub const fn align_down(self, alignment: u64) -> Self {
        Self(self.0 & !(alignment - 1))
    }

    /// The nearest address at or above this one that is a multiple of `alignment` (a power of
    /// two); `None` when that would be beyond the address space.
    pub const fn align_up(self, alignment: u64) -> Option<Self> {
        match self.0.checked_add(alignment - 1) {
            Some(sum) => Some(Self(sum & !(alignment - 1))),
            None => None,
        }
    }

    /// This address plus `length`; `None` when that would be beyond the address space.
    pub const fn checked_add(self, length: u64) -> Option<Self> {
        match self.0.checked_add(length) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The range of `length` bytes from here, cut at the end of the address space.
    pub const fn range(self, length: u64) -> Range<Self> {
        self..Self(self.0.saturating_add(length))
    }
}

impl Add<u64> for TargetAddress {
    type Output = Self;

    fn add(self, length: u64) -> Self {
        Self(self.0.wrapping_add(length))
    }
}

impl Sub<u64> for TargetAddress {
    type Output = Self;

    fn sub(self, length: u64) -> Self {
        Self(self.0.wrapping_sub(length))
    }
}

impl Sub for TargetAddress {
    type Output = u64;

    fn sub(self, other: Self) -> u64 {
        self.0.wrapping_sub(other.0)
    }
}

impl From<u64> for TargetAddress {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl fmt::Debug for TargetAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for TargetAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
