//! The ELF file that runs: what the patch is for.
//!
//! Must not know what changed.

mod file;
mod ifuncs;
mod parse;

pub(crate) use file::{Binary, Symbol};
pub use parse::BinaryError;
