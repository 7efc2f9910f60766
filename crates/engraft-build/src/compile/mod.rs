//! Compiles: what the build compiled, and our own compiles of the same sources.
//!
//! Must not know what is in an object.

mod command;
mod compiler;
mod dependencies;
mod link_time;
mod parallel;

pub(crate) use command::{Compile, Identity, compiles};
pub use compiler::CompileError;
pub(crate) use compiler::{compile_all, last_lines};
pub(crate) use dependencies::{Reads, real_path};
pub(crate) use link_time::{LTO_SECTIONS, is_link_time};
