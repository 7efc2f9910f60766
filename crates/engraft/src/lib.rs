//! The controller: finds processes, puts the agent into them, and drives what it is asked for.
//!
//! This room puts the others together and holds no mechanism of its own: what may happen is
//! `engraft-core`'s to say (inside the agent), how a process is touched is `engraft-process`'s, what a
//! patch file says is `engraft-patch`'s. It keeps no state: what is true of a process is in the process.

mod agent;
mod agent_memory;
mod apply;
mod attachment;
mod blob;
mod capabilities;
mod certain;
mod check;
mod contexts;
mod deadline;
mod door;
mod drive;
mod error;
pub mod exit_code;
mod explain;
mod hint;
mod holders;
mod in_the_way;
mod inject;
mod lead_out;
mod look;
mod module_list;
mod objects;
mod other_builds;
mod payload;
mod remains;
mod retired;
mod selection;
mod session;
mod status;
mod take_back;
mod target_memory;
mod thread_list;
mod transition;
mod whereabouts;

pub use apply::{Applied, Disabled, apply, disable, force, wait};
pub use check::{Checked, check};
pub use contexts::{ScanMemory, Suspended, Switcher, set_scan_memory, switchers};
pub use error::Error;
pub use holders::{Holder, holders};
pub use in_the_way::{Inside, Reference};
pub use objects::{Reach, Waiting};
pub use other_builds::{OtherBuild, find_other_builds};
pub use retired::{Removed, enable, remove, remove_agent};
pub use selection::Selected;
pub use status::{
    AgentStatus, ModuleStatus, ObjectStatus, PatchState, PatchStatus, Status, TransitionStatus,
    UnwinderStatus, status,
};
pub use take_back::OnTimeout;
