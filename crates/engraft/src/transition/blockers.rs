//! Who holds a transition up: looking at threads that have yet to switch, each by itself.

use engraft_abi::CodeRange;
use engraft_process::{Process, StopError, ThreadState};
use serde::Serialize;

use crate::agent::snapshot::Snapshot;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::error::in_the_way::Inside;
use crate::session::{STOP_TIMEOUT, Session};
use crate::transition::stack_check::{Finding, prepare_look};
use crate::transition::suspended::held;

/// A thread that has yet to switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Its number.
    pub tid: i32,
    /// Its name.
    pub name: String,
    /// What it does there; `None` if it is clear by now and only has to be looked at (`engraft wait`).
    pub reason: Option<Inside>,
    /// The function that it has to leave.
    pub function: String,
    /// Where it is in there, in words.
    pub frame: Option<String>,
}

/// The threads that hold the transition of a process up; none if there is no transition. Stops the threads of
/// the process for that, one at a time.
pub fn holders(process: &Process) -> Result<Vec<Holder>, Error> {
    let left = process.time_left().unwrap_or(STOP_TIMEOUT);
    let deadline = Deadline::of(process, left.min(STOP_TIMEOUT));
    let Some(session) = Session::find(process, deadline)? else {
        return Ok(Vec::new());
    };
    let Some(open) = Snapshot::read(&session.agent)?.transition else {
        return Ok(Vec::new());
    };
    let look = prepare_look(&session, open.number, open.to_patched, true)?;
    let eyes = look.eyes();
    let threads = process.threads().map_err(Error::looking_at(process))?;
    let mut seen: Vec<(ThreadState, Option<Finding>)> = Vec::new();
    let visited = process.visit_threads(&threads, STOP_TIMEOUT, |thread| {
        let state = thread.state();
        let pointer = state.registers.thread_pointer().get();
        if open.waiting.contains(&pointer) && !state.is_kernel_worker {
            seen.push((*state, eyes.finding(state)));
        }
        Ok::<_, StopError>(())
    });
    match visited {
        Err(error @ StopError::Gone { .. }) => return Err(error.into()),
        // A debugger has come, say. The number of those that are waited for is known all the same.
        Err(error) => tracing::debug!(%error, "not all threads could be looked at"),
        Ok(()) => {}
    }
    if session.contexts.are_looked_for() {
        add_held(&session, &mut seen, look.eyes().ranges())?;
    }
    seen.sort_unstable_by_key(|(state, _)| state.tid);
    let holders = seen.into_iter();
    Ok(holders
        .map(|(state, finding)| holder(process, &state, finding))
        .collect())
}

/// Says of threads that are clear what they wait for.
fn add_held(
    session: &Session<'_>,
    seen: &mut [(ThreadState, Option<Finding>)],
    code: &[CodeRange],
) -> Result<(), Error> {
    let stopped = session.stop()?;
    let threads: Vec<ThreadState> = stopped.threads().collect();
    let held = held(session, &threads, code);
    stopped.detach()?;
    if let Some(held) = held? {
        for (thread, finding) in seen {
            finding.get_or_insert_with(|| held(thread));
        }
    }
    Ok(())
}

fn holder(process: &Process, thread: &ThreadState, finding: Option<Finding>) -> Holder {
    let (reason, function, frame) = match finding {
        Some(finding) => (Some(finding.reason), finding.function, finding.frame),
        None => (None, String::new(), None),
    };
    Holder {
        tid: thread.tid,
        name: process.task(thread.tid).name().unwrap_or_default(),
        reason,
        function,
        frame,
    }
}
