//! Which binary gets which changed objects, and what of the fix is then in the patch.
//!
//! Must not know how the objects were made.

mod assembled;
mod assignments;
mod changed_types;
mod covered;
mod presence;

pub(crate) use assembled::{Assembled, assemble};
pub(crate) use covered::find_holders;
