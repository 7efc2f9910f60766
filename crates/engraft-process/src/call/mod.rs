//! Running code in a stopped thread, so that it survives our death.
//!
//! Must not know: ELF, stack walks.

pub(crate) mod gadgets;
pub(crate) mod prepared;
pub(crate) mod remote;
pub(crate) mod remote_error;
pub(crate) mod remote_thread;
pub(crate) mod requests;
pub(crate) mod signal_frame;
pub(crate) mod way_back;
