//! What the end-to-end tests, the demo and the measurements share.
//!
//! A [`Victim`] is a small C program with a bug; a [`Program`] is a running one that is spoken to
//! in lines; [`Engraft`] is the command under test, run as a user runs it; a [`Snapshot`] is what a
//! process looks like from outside. This room uses none of the project's own crates, so a test
//! cannot see more than a user can.
//!
//! Nothing in here sleeps to let something happen. Each wait ends with the event it waits for;
//! [`TIME_LIMIT`] only turns a hang into a failure.

#![forbid(unsafe_code)]

mod apt;
mod command;
pub mod debian;
pub mod elf;
mod engraft;
mod glibc;
mod held;
mod program;
mod skip;
mod snapshot;
mod tool;
mod user;
mod victim;

use std::time::Duration;

pub use command::{Outcome, run};
pub use engraft::{Engraft, exit};
pub use glibc::Glibc;
pub use held::Held;
pub use program::Program;
pub use skip::skip;
pub use snapshot::{Mapping, Snapshot};
pub use tool::has_tool;
pub use user::is_root;
pub use victim::Victim;

/// After this long a step counts as hanging. It is far above what any step needs on a loaded
/// machine, and no test waits for it to pass.
pub const TIME_LIMIT: Duration = Duration::from_secs(300);
