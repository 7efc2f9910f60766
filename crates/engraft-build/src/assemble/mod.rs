//! Which binary gets which changed objects, and what of the fix is then in the patch.
//!
//! Must not know how the objects were made.

mod assembled;
mod changed_types;
mod covered;
mod place;
mod placements;

pub(crate) use assembled::{Assembled, assemble};
pub(crate) use covered::find_holders;
