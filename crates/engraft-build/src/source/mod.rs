//! The source: the private copy of the user's tree, and the fix that is applied to it.
//!
//! Must not know what is compiled, or how.

mod fix;
mod renumber;
mod tree;

pub(crate) use fix::Fix;
pub use fix::FixError;
pub(crate) use renumber::{is_supported, renumbered};
pub(crate) use tree::{TreeChanges, Trees};
