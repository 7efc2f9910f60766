//! The controller: selects processes, injects the agent, and performs what the user asks for.
//!
//! This crate puts the other crates together. The rules of live patching are `engraft-core`'s,
//! inside the agent. How a process is touched is `engraft-process`'s, what a patch file says is
//! `engraft-patch`'s. The controller keeps no state: what is true of a process is read in the
//! process.
//!
//! # Folders
//! A folder uses only folders below it.
//!
//! | folder | what it does | what it uses |
//! |---|---|---|
//! | `command_line` (in the binary) | clap, printing | the public names of this crate |
//! | `commands` | a file for each command; the selection of processes | all below |
//! | `transition` | begin, try to complete, reverse, check stacks, find blockers | `session`, `agent`, `backoff`, `error` |
//! | `session` | one controller's work with one agent until a deadline | `agent`, `contexts`, `backoff`, `error` |
//! | `agent` | find, inject, call, and read the agent | `modules`, `backoff`, `error` |
//! | `contexts` | how a program switches stacks, and whether memory is scanned for that | `modules`, `error` |
//! | `modules` | the modules of a running process | `backoff`, `error` |
//! | `error` | errors, exit codes, hints | |
//! | `backoff` | the deadline of a command, and growing pauses until then | |
//!
//! # Not offered yet
//! The core has states, callbacks, shadow variables and replace sets. A patch file cannot carry
//! them, and no command leads to them: the agent gets only patches without any of these.

mod agent;
mod backoff;
mod commands;
mod contexts;
mod error;
mod modules;
mod session;
mod transition;

pub use agent::snapshot::{ModuleStatus, ObjectStatus, PatchPhase, PatchStatus, UnwinderStatus};
pub use commands::applied::Applied;
pub use commands::apply::apply;
pub use commands::check::{Checked, check};
pub use commands::disable::{Disabled, disable};
pub use commands::enable::enable;
pub use commands::force::force;
pub use commands::objects::{AbsentObject, ObjectPresence};
pub use commands::on_timeout::OnTimeout;
pub use commands::remove::{Removed, remove};
pub use commands::remove_agent::remove_agent;
pub use commands::selection::Selected;
pub use commands::status::{AgentStatus, Status, TransitionStatus, find_other_builds, status};
pub use commands::wait::wait;
pub use contexts::{ScanMemory, StackSwitcher, set_scan_memory, stack_switchers};
pub use error::{BadBlob, BlockReason, Error, Reference, Suspended, TooLarge, exit_code};
pub use modules::other_builds::OtherBuild;
pub use transition::blockers::{Blocker, blockers};
