//! The target's unwinders: call frame information of new code, and the redirect in libgcc by which
//! they find it.
//!
//! Must not know patches, modules or transitions, nor whether anything is enabled.

pub(crate) mod frame_info;
pub(crate) mod prologue;
pub(crate) mod unwinders;
