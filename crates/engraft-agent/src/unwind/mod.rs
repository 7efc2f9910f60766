//! The way of the target's unwinders through new code: its call frame information, and the redirect in libgcc.
//!
//! Must not know patches, modules or transitions, nor whether anything is enabled.

pub(crate) mod frames;
pub(crate) mod prologue;
pub(crate) mod unwinders;
