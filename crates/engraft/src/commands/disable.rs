//! `engraft disable`: makes a process run its own code again.

use std::time::Duration;

use engraft_abi::Outcome;
use engraft_process::Process;

use crate::backoff::Backoff;
use crate::error::Error;
use crate::session::Session;
use crate::transition::adopt::{adopt, transition_of};
use crate::transition::change::Change;
use crate::transition::perform::{perform, proceed};
use crate::transition::reverse::reverse;

/// What disabling a patch has led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disabled {
    /// How long the threads were stopped for the change.
    pub stopped_for: Duration,
}

/// Disables a patch in a process. Waits up to `timeout` until the threads of the process are clear
/// of the new code.
///
/// # Errors
/// [`Error::InTransition`] if threads have yet to switch when the time is up: the transition stays
/// open. After any other error but [`Error::NotUndone`] the process runs as before.
pub fn disable(process: &Process, name: &str, timeout: Duration) -> Result<Disabled, Error> {
    let pid = process.pid();
    let none = || Error::Agent {
        pid,
        outcome: Outcome::NoSuchPatch,
        text: format!("no patch '{name}' is enabled"),
    };
    let session = Session::find(process, Backoff::of(process, timeout))?.ok_or_else(none)?;
    adopt(&session, name)?;
    let stopped_for = match transition_of(&session, name)? {
        Some(open) if open.to_patched => reverse(&session, &open)?,
        // The patch is being disabled already.
        Some(open) => {
            proceed(&session, &open)?;
            Duration::ZERO
        }
        None => {
            let number = session.enabled_patch(name)?.ok_or_else(none)?;
            perform(&session, Change::Disable(number))?
        }
    };
    Ok(Disabled { stopped_for })
}
