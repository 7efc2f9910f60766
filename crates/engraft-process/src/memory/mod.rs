//! The memory of a process: reading and writing, the memory map, free ranges.
//!
//! Must not know: ELF, ptrace but for the word that is written where /proc refuses.

pub(crate) mod access;
pub(crate) mod gaps;
pub(crate) mod maps;
pub(crate) mod page_cache;
pub(crate) mod protected;
pub(crate) mod resident;
