//! Types whose layout the fix changes. Memory that was made before the patch has the old layout,
//! and cannot all be found: new code that reads it with the new layout reads something else.
//!
//! What is let through, and why:
//!
//! - A member in what was padding, in a type of the same size: all other members are where they
//!   were. The new one is in old memory what its allocation left there.
//! - A member of a union that does not make it larger, and an enumerator: no old memory holds it.
//! - Another sign of a number of the same size, other qualifiers, other names of the same type.
//! - A type that is only on the stack, in functions that are all replaced: a thread never runs old
//!   and new code in one chain of calls.
//!
//! Must not know the binary.

mod debug_info;
mod differences;
mod types;

pub(crate) use differences::{Harmless, LayoutChange, LayoutComparison};
