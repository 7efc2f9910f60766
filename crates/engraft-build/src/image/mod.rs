//! New code and what it needs, laid out for one binary.
//!
//! Starting from the changed functions, everything that new code refers to is either named in the
//! old binary or taken along: new functions and variables, strings, constants, jump tables.
//!
//! Must not know where the objects come from.

mod build;
mod builder;
mod call_point;
mod changed;
mod draft;
mod entry;
mod linked_unit;
mod reference;
mod references;
mod slots;
mod thread_local;
mod thunks;
mod unwind;

pub(crate) use build::build;
pub(crate) use linked_unit::LinkedUnit;
