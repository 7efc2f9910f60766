//! The patch file: one named fix, ready to be applied to running processes.
//!
//! This room reads, writes and verifies patch files. It must not know processes: it never looks at
//! a target. The model in [`model`] is what `engraft-build` produces and what the controller
//! consumes; [`mod@check`] holds the rules that every patch obeys, and [`file`](mod@file) is its
//! form on disk, an ELF file that `readelf` can show.

#![forbid(unsafe_code)]

pub mod check;
pub mod file;
pub mod model;
pub mod site;

pub use check::Inconsistency;
pub use file::{ReadError, WriteError, read, write};
pub use model::{
    BuildId, Concessions, Function, Image, ImageAddress, ImageRange, Import, LinkAddress, Missing,
    Object, OldPart, Patch, Relocation, RelocationKind, RelocationTarget, Segment, Trampoline,
};
