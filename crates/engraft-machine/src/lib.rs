//! Facts of the machine (x86-64 Linux) that several crates must agree on, each of them once.
//!
//! The builder, the controller and the agent have to mean the same page, the same jump and the same
//! reach, and not all of them may use one another. This crate holds what follows from the
//! processor, the psABI or the kernel, and the two names that all rooms use for an object and a place
//! in it. It must not read ELF files, and must not know patches or processes.

#![no_std]
#![forbid(unsafe_code)]

pub mod jump;
mod object_name;
pub mod request;

pub use object_name::{BuildId, LinkAddress};

/// The size of a page of memory, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// How far apart two bytes may be so that each reaches the other with a 32-bit displacement: 2 GiB,
/// less 1 MiB for the length of an instruction and of what it refers to.
pub const REACH: u64 = (1 << 31) - (1 << 20);

/// How many bytes below its stack pointer a function may use (psABI, 3.2.2): neither a signal
/// handler nor a borrowed call may write there.
pub const RED_ZONE: u64 = 128;

/// The address of the page that `address` is in.
#[must_use]
pub const fn page_start(address: u64) -> u64 {
    address & !(PAGE_SIZE - 1)
}
