//! The ELF files of which a process consists, read from its memory: modules, the dynamic loader,
//! symbols.
//!
//! Must not know: tracing, stacks.

pub(crate) mod executable;
pub(crate) mod file_sections;
pub(crate) mod headers;
pub(crate) mod loader;
pub(crate) mod modules;
pub(crate) mod reading;
pub(crate) mod shared_name;
pub(crate) mod symbol_names;
pub(crate) mod symbols;
