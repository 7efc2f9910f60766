//! The threads that we trace: attaching, stopping, waiting.
//!
//! Must not know: what a stop is for.

pub(crate) mod reaper;
pub(crate) mod stop_error;
pub(crate) mod stopping;
pub(crate) mod tracees;
