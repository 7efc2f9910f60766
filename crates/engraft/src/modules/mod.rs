//! The modules of a process that runs on meanwhile, and whether they are other builds of what a
//! patch changes.
//!
//! This folder must not know the agent.

pub(crate) mod other_builds;
pub(crate) mod stable;
