//! The ELF files of a process, read from its memory: modules, the dynamic loader, symbols.
//!
//! Must not know: ptrace, stacks.

pub(crate) mod file_sections;
pub(crate) mod headers;
pub(crate) mod loader;
pub(crate) mod modules;
pub(crate) mod shared_name;
pub(crate) mod symbol_names;
pub(crate) mod symbols;
