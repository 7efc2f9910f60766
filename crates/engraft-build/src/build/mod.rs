//! The way from a source fix to a patch.
//!
//! Nothing of this crate may know it.

mod build_run;
mod changes;
mod inputs;
mod run;

pub use build_run::build;
