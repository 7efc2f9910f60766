//! From a source fix to a patch file.
//!
//! [`build`] runs the user's own build command on a private copy of the source, before and after the fix, and
//! sees which compiles take place. What was recompiled is compiled twice more, original and fixed, with each
//! function and variable in a section of its own. The two are compared function by function; what changed is
//! located in the binary by comparing the original's code with the code there; and the new code is laid out
//! with every reference to the old binary resolved.
//!
//! ```text
//! record, command      the build's compiles            compile, renumber    our own compiles
//! tree, fix            source trees, the fix           unit, compare        objects and their differences
//! work, progress       what is around it
//! dependencies         what compiles read          leftovers            objects that no recorded compile made
//! link_time            link-time optimisation      layouts              types that differ in memory
//! binary, correlate    the binary, what is where       image, layout        new code for one binary
//! site, trampoline     the entries of old functions
//! padding              what lies behind short ones
//! ```
//!
//! This room must not know processes. What it does not offer: C++, whose tables for exceptions name types,
//! thread-local variables that are new, link-time optimisation.

#![forbid(unsafe_code)]

mod assemble;
mod binary;
mod build;
mod call_point;
mod candidates;
mod command;
mod compare;
mod compile;
mod correlate;
mod dependencies;
mod error;
mod fix;
mod image;
mod layout;
mod layouts;
mod leftovers;
mod link_time;
mod padding;
mod place;
mod progress;
mod record;
mod refusal;
mod refusals;
mod renumber;
mod site;
mod trampoline;
mod tree;
mod unit;
mod work;

pub use binary::BinaryError;
pub use build::{BuildReport, BuildRequest, ChangedObject, Outcome, Unplaced, build};
pub use compile::CompileError;
pub use correlate::Mismatch;
pub use error::{BuildError, Stage};
pub use fix::FixError;
pub use progress::{Event, Progress, Step};
pub use record::wrapper_main;
pub use refusal::{Hex, Refusal};
pub use trampoline::Unmovable;
pub use unit::ObjectError;
