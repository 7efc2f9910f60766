//! The way from a source fix to a patch.
//!
//! Nothing of this crate may know it.

mod changes;
mod inputs;
mod run;
mod session;

pub use session::build;
