//! `engraft force`: ends a transition, wherever threads are.

use std::time::Duration;

use engraft_abi::Command;
use engraft_process::Process;

use super::wait::open_transition;
use crate::error::Error;
use crate::transition::try_complete::{complete, finish};

/// Ends the transition of a patch, wherever threads are. Memory that a thread may still be inside
/// of stays in the process forever.
///
/// # Errors
/// [`Error::NotInTransition`] if the patch is not in transition.
pub fn force(process: &Process, name: &str, timeout: Duration) -> Result<(), Error> {
    let (session, open) = open_transition(process, Some(name), timeout)?;
    match open.canceled {
        // Its threads are all where they should be; only the agent has to end it.
        true => complete(&session, open.number),
        false => finish(&session, Command::Force, open.number),
    }
}
