//! The memory of a process: reading and writing it, its memory map, free ranges, instructions that
//! are recognised.
//!
//! Must not know: ELF; tracing, but for the one word that ptrace writes where /proc refuses
//! ([`protected::ProtectedWriter`]).

pub(crate) mod access;
pub(crate) mod fields;
#[cfg(test)]
mod fuzz;
pub(crate) mod gaps;
pub(crate) mod instructions;
pub(crate) mod maps;
pub(crate) mod page_cache;
pub(crate) mod protected;
pub(crate) mod resident;
