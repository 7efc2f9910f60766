//! Where others enter the agent, and what holds its state: the entry points, the one lock, the
//! heap.
//!
//! Must not know how anything is patched: a command or a call of the loader takes the lock and is
//! handed on to the model.

pub(crate) mod commands;
#[cfg(feature = "freestanding")]
mod entry;
#[cfg(feature = "freestanding")]
mod heap;
pub(crate) mod loader_call;
pub(crate) mod lock;
