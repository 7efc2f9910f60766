//! The entry of an old function: the site, the padding that it may need, and the trampoline for its
//! instructions.
//!
//! Must not know the new code.

mod padding;
mod site;
mod trampoline;

pub(super) use padding::extend;
pub(super) use site::check;
pub(super) use trampoline::MovedCode;
