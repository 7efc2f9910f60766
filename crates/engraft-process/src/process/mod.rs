//! One process, seen from outside: its number, its threads under /proc, its lock, and the bounds within
//! which it is believed.
//!
//! Must not know: what is in its memory, ptrace.

pub(crate) mod auxv;
pub(crate) mod deadline;
pub(crate) mod exec;
pub(crate) mod filters;
pub mod foreign;
pub(crate) mod foreign_file;
pub(crate) mod freezer;
pub(crate) mod handle;
pub(crate) mod interrupted_calls;
pub mod limits;
pub(crate) mod liveliness;
pub(crate) mod lock;
pub(crate) mod obstacles;
pub(crate) mod task;
pub(crate) mod time_limit;
