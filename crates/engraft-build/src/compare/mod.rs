//! What differs between the original and the fixed object of one compile.
//!
//! Bytes are compared outside relocations, relocations by what they mean: a function or variable by
//! which one it is, a string, constant or jump table by its content. So renumbered labels and moved
//! strings are no change.
//!
//! Must not know the binary.

mod comparison;
mod pairs;
mod users;

pub(crate) use comparison::Comparison;
pub(crate) use users::cold_parts;
