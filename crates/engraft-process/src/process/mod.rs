//! One process as `/proc` and its pidfd show it: its number, its threads, its lock, and the bounds
//! on what we read and how long we wait.
//!
//! Must not know: the content of its memory, tracing. What later folders learn of a process and
//! need again (which threads wake often, the call thread, borrowed code) is kept in
//! [`handle::Process`] as plain data.

pub(crate) mod auxv;
pub(crate) mod borrowed_code;
pub(crate) mod capabilities;
pub(crate) mod deadline;
pub(crate) mod exec;
pub(crate) mod filters;
pub mod foreign;
pub(crate) mod foreign_file;
pub(crate) mod freezer;
#[cfg(test)]
mod fuzz;
pub(crate) mod handle;
pub(crate) mod interrupted_calls;
pub mod limits;
pub(crate) mod lock;
pub(crate) mod obstacles;
pub(crate) mod open_error;
pub(crate) mod process_list;
pub(crate) mod task;
pub(crate) mod time_limit;
pub(crate) mod wake_rate;
