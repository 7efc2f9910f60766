//! The states of a process that we trace, as types: seized, partly stopped, stopped, and single
//! stopped threads. What may be done in a state is a method of its type.
//!
//! Must not know: ELF, stacks.

pub(crate) mod borrowed_thread;
pub(crate) mod partly_stopped;
pub(crate) mod stop_each;
pub(crate) mod stopped;
pub(crate) mod stopped_thread;
pub(crate) mod stopped_threads;
pub(crate) mod traced_process;
