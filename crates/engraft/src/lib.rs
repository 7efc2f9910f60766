//! The controller: finds processes, puts the agent into them, and drives what it is asked for.
//!
//! This room puts the others together and holds no mechanism of its own: what may happen is
//! `engraft-core`'s to say (inside the agent), how a process is touched is `engraft-process`'s, what a
//! patch file says is `engraft-patch`'s. It keeps no state: what is true of a process is in the process.

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
