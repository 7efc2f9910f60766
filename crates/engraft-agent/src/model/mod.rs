//! The agent as a whole: [`engraft_core`]'s model, which decides, and what carries its decisions
//! out in this process.
//!
//! Must not know who holds the lock, nor from where it was called.

pub(crate) mod agent;
pub(crate) mod disabled;
pub(crate) mod host;
pub(crate) mod module_events;
pub(crate) mod module_registry;
pub(crate) mod ranges;
pub(crate) mod snapshot;
pub(crate) mod symbols;
pub(crate) mod transition;
pub(crate) mod world;
