//! The modules of a process that goes on running, and comparing them with the objects of patches.
//!
//! Must not know the agent.

pub(crate) mod other_builds;
pub(crate) mod stable;
