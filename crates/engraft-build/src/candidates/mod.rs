//! The compiles that the fix may have changed, and their original and fixed objects.
//!
//! Must not know the binary, except for objects whose origin nobody knows.

mod leftovers;
mod objects;
mod pairing;
mod same;
mod selection;
mod unseen;

pub(crate) use leftovers::{Leftovers, for_each_file, may_be_in};
pub(crate) use objects::{ChangedUnit, Objects};
pub(crate) use selection::Candidates;
