//! Who holds a transition up: looking at threads that have yet to switch, each by itself.

use engraft_process::{Process, StopError, ThreadState};
use serde::Serialize;

use crate::deadline::Deadline;
use crate::error::Error;
use crate::in_the_way::Inside;
use crate::look::{Finding, prepare_look};
use crate::session::{STOP_TIMEOUT, Session};
use crate::status::Snapshot;

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
    let deadline = Deadline::after(STOP_TIMEOUT);
    let Some(session) = Session::find(process, deadline)? else {
        return Ok(Vec::new());
    };
    let Some(open) = Snapshot::read(&session.agent)?.transition else {
        return Ok(Vec::new());
    };
    let look = prepare_look(&session, open.number, open.to_patched, true)?;
    let eyes = look.eyes();
    let threads = process.threads().map_err(Error::looking_at(process))?;
    let mut holders = Vec::new();
    for tid in threads {
        let stopped = match process.stop_threads(&[tid], STOP_TIMEOUT) {
            Ok(stopped) => stopped,
            Err(error @ StopError::Gone { .. }) => return Err(error.into()),
            // Whoever drives the transition looks at it at this moment.
            Err(_) => continue,
        };
        let state = stopped.threads().next();
        let finding = state.as_ref().and_then(|state| eyes.finding(state));
        stopped.detach()?;
        let Some(state) = state else { continue };
        let pointer = state.registers.thread_pointer().get();
        if open.waiting.contains(&pointer) && !state.is_kernel_worker {
            holders.push(holder(process, &state, finding));
        }
    }
    Ok(holders)
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
