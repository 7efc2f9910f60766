//! Looking at threads one by one: each is stopped for the look, while all others run.

use std::time::Duration;

use crate::process::handle::Process;
use crate::process::task::TaskState;
use crate::stop::stopped_thread::StoppedThread;
use crate::stop::traced_process::TracedProcess;
use crate::trace::patience::LONGEST_SLICE;
use crate::trace::stop_error::StopError;

/// A function that looks at a stopped thread.
type Look<'l, E> = &'l mut dyn FnMut(&mut StoppedThread<'_>) -> Result<(), E>;

/// Stops each of these threads, and calls `look` with it. Threads that have ended are left out.
pub(crate) fn stop_each<E: From<StopError>>(
    process: &Process,
    tids: &[i32],
    timeout: Duration,
    look: Look<'_, E>,
) -> Result<(), E> {
    let mut first_unstopped = None;
    let mut running = Vec::new();
    for tid in tids {
        if let Some(timeout) = process.out_of_time() {
            let (pid, tid) = (process.pid(), *tid);
            return Err(StopError::TimedOut { pid, tid, timeout }.into());
        }
        match process.task(*tid).stat() {
            Ok(Some(stat)) if stat.state == TaskState::Running => running.push(*tid),
            _ => {
                // After one failure, not the whole time for each further thread.
                let short = timeout.min(LONGEST_SLICE);
                let timeout = first_unstopped.as_ref().map_or(timeout, |_| short);
                try_group(process, &[*tid], timeout, &mut first_unstopped, look)?;
            }
        }
    }
    let slices = u32::try_from(running.len()).unwrap_or(u32::MAX);
    let timeout = timeout.saturating_add(LONGEST_SLICE.saturating_mul(slices));
    try_group(process, &running, timeout, &mut first_unstopped, look)?;
    match first_unstopped {
        Some(error) => Err(error.into()),
        None if process.is_alive() => Ok(()),
        None => Err(StopError::Gone { pid: process.pid() }.into()),
    }
}

/// Looks at some threads. That one of them could not be stopped is noted; any other error ends
/// everything.
fn try_group<E: From<StopError>>(
    process: &Process,
    tids: &[i32],
    timeout: Duration,
    first_unstopped: &mut Option<StopError>,
    look: Look<'_, E>,
) -> Result<(), E> {
    match look_at_group(process, tids, timeout, look) {
        Ok(looked) => looked,
        Err(
            error @ (StopError::TimedOut { .. }
            | StopError::Uninterruptible { .. }
            | StopError::Vfork { .. }
            | StopError::AlreadyTraced { .. }
            | StopError::PermissionDenied { .. }),
        ) => {
            first_unstopped.get_or_insert(error);
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Looks at some threads. The outer error is about stopping, the inner one is `look`'s.
fn look_at_group<E>(
    process: &Process,
    tids: &[i32],
    timeout: Duration,
    look: Look<'_, E>,
) -> Result<Result<(), E>, StopError> {
    let deadline = process.patience(timeout);
    let mut traced = TracedProcess::seize_some(process, tids, &deadline)?;
    let mut requests = traced.tracees.begin_one_by_one()?;
    while let Some(tid) = traced.tracees.next_stopped(&mut requests, &deadline)? {
        // A thread that one of them has started is not to be looked at.
        let is_wanted = tids.contains(&tid);
        if let Some(mut thread) = StoppedThread::of(&mut traced, tid).filter(|_| is_wanted)
            && let Err(error) = look(&mut thread)
        {
            if let Err(error) = traced.detach() {
                tracing::debug!(%error, "after a failed look");
            }
            return Ok(Err(error));
        }
        traced.detach_one(tid)?;
    }
    traced.detach()?;
    Ok(Ok(()))
}
