//! Transitions as the controller makes them: begin, try to complete, reverse, check stacks, find blockers.
//!
//! Must not know patch files, the selection of processes, and how the agent came into the process.

pub(crate) mod blockers;
pub(crate) mod change;
pub(crate) mod door;
pub(crate) mod redirect;
pub(crate) mod stack_check;
pub(crate) mod suspended;
pub(crate) mod thread_list;
pub(crate) mod try_complete;
