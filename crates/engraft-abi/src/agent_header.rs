//! What the agent's memory is found by where it can have no name.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The first bytes of the agent's constants, in place of the ELF header, which is not needed any
/// more. They are the start of a mapping, because the constants lie between memory that is writable
/// and memory that is executable.
///
/// Nothing else can be taken for a header: it holds 16 random bytes and its own address, so that
/// even a copy of it does not count. It is the same in all versions; the version is in the control
/// block.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AgentHeader {
    /// [`AGENT_HEADER_MAGIC`].
    pub magic: [u8; 16],
    /// Its own address.
    pub address: u64,
    /// Where the agent's mapping begins, with the control block.
    pub control: u64,
    /// Size of the agent's whole mapping in bytes.
    pub length: u64,
}

/// Bytes from a random number generator.
pub const AGENT_HEADER_MAGIC: [u8; 16] = [
    0x8d, 0x95, 0x98, 0x7d, 0x57, 0x6c, 0x14, 0x74, 0x97, 0x66, 0x52, 0xe5, 0x5c, 0xc1, 0x21, 0xf6,
];

// The ELF header's size.
const _: () = assert!(size_of::<AgentHeader>() <= 64);
