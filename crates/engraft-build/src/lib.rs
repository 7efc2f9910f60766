//! From a source fix to a patch file.
//!
//! [`build`] runs the user's own build command on a private copy of the source, before and after
//! the fix, and sees which compiles take place. What was recompiled is compiled twice more,
//! original and fixed, with each function and variable in a section of its own. The two are
//! compared function by function; what changed is located in the binary by comparing the original's
//! code with the code there; and the new code is laid out with every reference to the old binary
//! resolved.
//!
//! The folders, from top to bottom. Each may use those below it, and none above:
//!
//! ```text
//! build        the way from a fix to a patch
//! assemble     which binary gets which changed objects
//! candidates   the compiles that the fix may have changed, and their objects
//! request      what the user asks for, is told and gets
//! image        new code, laid out for one binary
//! correlate    which code of the binary is which function
//! layouts      types that differ in memory
//! compare      what differs between two objects
//! binary       the ELF file that runs
//! unit         a compiled object as items
//! compile      compiles: the build's and our own
//! record       recording the build's compiles
//! source       the source tree and the fix
//! refusal      what cannot be patched, and why
//! ```
//!
//! This room must not know processes. What it does not offer: C++, whose tables for exceptions name
//! types, thread-local variables that are new, link-time optimisation.

#![forbid(unsafe_code)]

mod assemble;
mod binary;
mod build;
mod candidates;
mod compare;
mod compile;
mod correlate;
mod image;
mod layouts;
mod record;
mod refusal;
mod request;
mod source;
mod unit;

pub use binary::BinaryError;
pub use build::build;
pub use compile::CompileError;
pub use record::wrapper_main;
pub use refusal::{Hex, Mismatch, Refusal, Unmovable};
pub use request::{
    BuildError, BuildOutcome, BuildReport, BuildRequest, ChangedBinary, Event, MissingSource,
    Progress, Stage, Step,
};
pub use source::FixError;
pub use unit::ObjectFileError;
