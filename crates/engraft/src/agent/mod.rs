//! The agent in a process, from outside: finding it, injecting it, giving it commands, reading what it knows.
//!
//! Must not know transitions, the stacks of threads, and what the user asked for.

pub(crate) mod blob;
pub(crate) mod header;
pub(crate) mod inject;
pub(crate) mod memory;
pub(crate) mod module_list;
pub(crate) mod payload;
pub(crate) mod remains;
pub(crate) mod running;
pub(crate) mod snapshot;
