//! The controller: finds processes, puts the agent into them, and drives what it is asked for.
//!
//! This room puts the others together and holds no mechanism of its own: what may happen is
//! `engraft-core`'s to say (inside the agent), how a process is touched is `engraft-process`'s, what a
//! patch file says is `engraft-patch`'s. It keeps no state: what is true of a process is in the process.

mod agent;
mod commands;
mod contexts;
mod deadline;
mod error;
mod modules;
mod session;
mod transition;

pub use agent::snapshot::{
    AgentStatus, ModuleStatus, ObjectStatus, PatchState, PatchStatus, Status, TransitionStatus,
    UnwinderStatus, status,
};
pub use commands::apply::{Applied, Disabled, apply, disable, force, wait};
pub use commands::check::{Checked, check};
pub use commands::objects::{Reach, Waiting};
pub use commands::on_timeout::OnTimeout;
pub use commands::remove::{Removed, enable, remove, remove_agent};
pub use commands::selection::Selected;
pub use contexts::{ScanMemory, Switcher, set_scan_memory, switchers};
pub use error::in_the_way::{Inside, Reference};
pub use error::{Error, exit_code};
pub use modules::other_builds::{OtherBuild, find_other_builds};
pub use transition::blockers::{Holder, holders};
pub use transition::suspended::Suspended;
