//! What everything else stands on: the kernel's calls, memory by address, writing to code, the
//! control block, failures.
//!
//! Must not know the loader, patches or the core.

pub(crate) mod code;
pub(crate) mod code_writer;
pub(crate) mod control;
pub(crate) mod failure;
mod kernel;
pub(crate) mod memory;
pub(crate) mod random;

pub(crate) use kernel::*;
