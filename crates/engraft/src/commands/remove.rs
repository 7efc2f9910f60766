//! `engraft remove`: takes the memory of a disabled patch out of a process.
//!
//! The memory is freed only when nothing refers to it: no word on a stack or in a register that
//! could be an address of its data, no return address into its code, and no such word of a
//! suspended context. Other memory of the program, its heap for example, is not searched. Where the
//! program may hold addresses of functions there, the agent knows it, and the memory of these
//! functions stays.

use std::time::Duration;

use engraft_abi::Command;
use engraft_process::{Process, StoppedProcess};

use crate::agent::plan::Plan;
use crate::agent::snapshot::Snapshot;
use crate::backoff::Backoff;
use crate::error::{Error, Suspended};
use crate::session::Session;
use crate::transition::adopt::adopt;
use crate::transition::references::first_reference;
use crate::transition::stack_check::walk_context;
use crate::transition::suspended::find_suspended;

/// What removing a patch has led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Size in bytes of the memory that stays, because the program may hold addresses of functions
    /// in it.
    pub stays: u64,
}

/// Removes a disabled patch from a process. Waits up to `timeout` until nothing refers to its
/// memory.
///
/// # Errors
/// [`Error::StillEnabled`] if the patch is not disabled; [`Error::ThreadRefers`] and
/// [`Error::ContextRefers`] if its memory is still in use when the time is up.
pub fn remove(process: &Process, name: &str, timeout: Duration) -> Result<Removed, Error> {
    let pid = process.pid();
    let session = Session::find_for_patch(process, name, timeout)?;
    adopt(&session, name)?;
    match (session.disabled_patch(name), session.enabled_patch(name)?) {
        (Ok(number), _) => remove_patch(&session, number, name, &session.backoff),
        (Err(_), Some(_)) => Err(Error::StillEnabled {
            pid,
            name: name.to_owned(),
        }),
        (Err(none), None) => Err(none),
    }
}

/// Removes the disabled patch with this number once nothing refers to its memory.
pub(super) fn remove_patch(
    session: &Session<'_>,
    number: u64,
    name: &str,
    backoff: &Backoff,
) -> Result<Removed, Error> {
    let (process, pid) = (session.process, session.pid());
    let arguments = [number, 0];
    let mut context = None;
    let mut looks = 0;
    session.contexts.prepare(process)?;
    loop {
        looks += 1;
        let maps = process.maps()?;
        let mut stopped = session.stop()?;
        let planned = session.command_stopped(&mut stopped, Command::PlanRemoval, arguments)?;
        if planned.is_busy() {
            stopped.detach()?;
            session.wait_for_loader()?;
            continue;
        }
        planned.done(pid)?;
        let plan = session.agent.plan()?;
        if let Some((tid, reference)) =
            first_reference(&mut stopped, &maps, &plan, context.as_ref())?
        {
            stopped.detach()?;
            backoff.wait().map_err(|timeout| Error::ThreadRefers {
                pid,
                tid,
                thread_name: process.task(tid).name().unwrap_or_default(),
                name: name.to_owned(),
                reference,
                looks,
                timeout,
            })?;
            // The first check was a scan alone. A precise walk may show that the word is no return
            // address.
            let snapshot = Snapshot::read(&session.agent)?;
            context = Some(walk_context(process, snapshot.images(None))?);
        } else if let Some(suspended) = suspended_in(session, &stopped, &plan)? {
            stopped.detach()?;
            wait_for_context(session, name, suspended)?;
        } else {
            let removed = session.command_stopped(&mut stopped, Command::Remove, arguments)?;
            stopped.detach()?;
            let stays = removed.done(pid)?.value;
            return Ok(Removed { stays });
        }
    }
}

/// A suspended context that may resume in code that is to be removed, or use its data.
fn suspended_in(
    session: &Session<'_>,
    stopped: &StoppedProcess,
    plan: &Plan,
) -> Result<Option<Suspended>, Error> {
    let is_empty = plan.sites.is_empty() && plan.ranges.is_empty();
    if is_empty || !session.contexts.are_scanned() {
        return Ok(None);
    }
    let threads: Vec<_> = stopped.threads().collect();
    find_suspended(session, &threads, &plan.sites, &plan.ranges)
}

/// Lets the program run until memory may be scanned again.
fn wait_for_context(session: &Session<'_>, name: &str, suspended: Suspended) -> Result<(), Error> {
    loop {
        session
            .backoff
            .wait()
            .map_err(|timeout| Error::ContextRefers {
                pid: session.pid(),
                name: name.to_owned(),
                suspended: suspended.clone().into(),
                timeout,
            })?;
        if session.contexts.may_scan() {
            return Ok(());
        }
    }
}
