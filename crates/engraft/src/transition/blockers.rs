//! The blockers of a transition: the threads that have yet to switch, and why each of them has not.

use engraft_abi::CodeRange;
use engraft_process::{Process, StopError, ThreadState};
use serde::Serialize;

use super::stack_check::{BlockedThread, CheckPlan};
use super::suspended::block_on_suspended;
use crate::agent::calls::STOP_TIMEOUT;
use crate::agent::snapshot::{OpenTransition, Snapshot};
use crate::backoff::Backoff;
use crate::error::{BlockReason, Error};
use crate::session::Session;

/// A thread that has yet to switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// Its number.
    pub tid: i32,
    /// Its name.
    pub name: String,
    /// Why it could not switch; `None` if it is clear by now, and switches at the next check
    /// (`engraft wait`).
    pub reason: Option<BlockReason>,
    /// The function that it has to leave.
    pub function: String,
    /// Where it is in that function, in words.
    pub frame: Option<String>,
    /// It switches by itself when it next calls a function that the patch replaces. Otherwise a
    /// controller has to see it outside.
    pub at_next_call: bool,
}

impl Blocker {
    fn new(
        process: &Process,
        open: &OpenTransition,
        thread: &ThreadState,
        blocked: Option<BlockedThread>,
    ) -> Self {
        let (reason, function, frame) = match blocked {
            Some(blocked) => (Some(blocked.reason), blocked.function, blocked.frame),
            None => (None, String::new(), None),
        };
        Self {
            tid: thread.tid,
            name: process.task(thread.tid).name().unwrap_or_default(),
            reason,
            function,
            frame,
            at_next_call: open.has_door(thread.registers.thread_pointer().get()),
        }
    }
}

/// The blockers of the open transition of a process; none if no transition is open. Stops each
/// thread that has yet to switch for a moment, one after the other.
///
/// # Errors
/// If the process has ended, or the agent cannot be asked. A thread that cannot be stopped is left
/// out.
pub fn blockers(process: &Process) -> Result<Vec<Blocker>, Error> {
    let left = process.time_left().unwrap_or(STOP_TIMEOUT);
    let backoff = Backoff::of(process, left.min(STOP_TIMEOUT));
    let Some(session) = Session::find(process, backoff)? else {
        return Ok(Vec::new());
    };
    let Some(open) = Snapshot::read(&session.agent)?.transition else {
        return Ok(Vec::new());
    };
    let plan = CheckPlan::ask(&session, open.number, open.to_patched)?;
    let checker = plan.checker();
    let threads = process.threads().map_err(Error::reading(process))?;
    let mut pending: Vec<(ThreadState, Option<BlockedThread>)> = Vec::new();
    let visited = process.stop_each(&threads, STOP_TIMEOUT, |thread| {
        let state = thread.state();
        let pointer = state.registers.thread_pointer().get();
        if open.pending.contains(&pointer) && !state.is_kernel_worker {
            pending.push((*state, checker.check(state)));
        }
        Ok::<_, StopError>(())
    });
    match visited {
        Err(error @ StopError::Gone { .. }) => return Err(error.into()),
        // A debugger may have come. The number of threads that have yet to switch is known all the
        // same.
        Err(error) => tracing::debug!(%error, "not all threads could be checked"),
        Ok(()) => {}
    }
    if session.contexts.are_scanned() {
        add_suspended(&session, &mut pending, checker.ranges())?;
    }
    pending.sort_unstable_by_key(|(state, _)| state.tid);
    let blockers = pending
        .into_iter()
        .map(|(state, blocked)| Blocker::new(process, &open, &state, blocked));
    Ok(blockers.collect())
}

/// If a suspended context blocks all threads, notes that for those that are clear.
fn add_suspended(
    session: &Session<'_>,
    pending: &mut [(ThreadState, Option<BlockedThread>)],
    code: &[CodeRange],
) -> Result<(), Error> {
    let stopped = session.stop()?;
    let threads: Vec<ThreadState> = stopped.threads().collect();
    let block = block_on_suspended(session, &threads, code);
    stopped.detach()?;
    if let Some(block) = block? {
        for (thread, blocked) in pending {
            blocked.get_or_insert_with(|| block(thread));
        }
    }
    Ok(())
}
