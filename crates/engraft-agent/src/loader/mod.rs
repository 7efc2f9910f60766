//! The dynamic loader: its lists, its calls, how a load is refused, and the ELF files that it has
//! loaded.
//!
//! Must not know patches: what a module needs is decided above.

pub(crate) mod broken;
pub(crate) mod call_numbers;
pub(crate) mod calls;
pub(crate) mod elf;
pub(crate) mod empty_library;
pub(crate) mod hook;
pub(crate) mod lists;
pub(crate) mod namespaces;
