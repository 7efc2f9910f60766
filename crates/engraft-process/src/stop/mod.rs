//! A process that we trace, running or stopped, as types: what may be done is a method of the state.
//!
//! Must not know: ELF, stack walks.

pub(crate) mod partly_stopped;
pub(crate) mod release;
pub(crate) mod some_threads;
pub(crate) mod stopped;
pub(crate) mod stopped_thread;
pub(crate) mod visit;
