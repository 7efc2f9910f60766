//! The compiles that the fix may have changed, and their original and fixed objects.
//!
//! Must not know the binary, except for prebuilt objects, whose origin is unknown.

mod object_files;
mod pairing;
mod prebuilt;
mod same_program;
mod selection;
mod unseen;

pub(crate) use object_files::{ChangedUnit, ObjectFiles};
pub(crate) use prebuilt::{PrebuiltObjects, for_each_file, may_be_in};
pub(crate) use selection::Candidates;
