//! Threads are looked at, each by itself, while all others go on.
//!
//! Those that sleep stop at once when they are asked to, and so do those that are on a processor: one is asked after
//! the other. A thread that waits for a processor stops when it gets one. Next to hundreds of such threads, to wait
//! for each by itself would take a turn of all others each time. So as long as none comes, more and more are asked;
//! they would have stood still anyway.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::process::deadline::Deadline;
use crate::process::handle::Process;
use crate::process::task::TaskState;
use crate::stop::release::TURN;
use crate::stop::stopped_thread::StoppedThread;
use crate::sys::wait::wait_for_any;
use crate::trace::stop_error::StopError;
use crate::trace::tracees::Tracees;

/// Who does not come for so long is not on a processor. Not shorter than the alarm's tick.
const A_WHILE: Duration = Duration::from_millis(5);

/// How often it is looked for events where a child of ours that is none of these threads has ended, and whoever
/// started it does not want to know.
const LOOK_AGAIN: Duration = Duration::from_micros(100);

impl Process {
    /// Shows each of these threads to `visit` while it stands still. Those that have ended are left out.
    ///
    /// # Errors
    /// The first one of `visit`, or that the process has ended: everything is let go then. Of those threads that
    /// cannot be stopped within `timeout`, the first error, after all others have been shown.
    pub fn visit_threads<E: From<StopError>>(
        &self,
        tids: &[i32],
        timeout: Duration,
        mut visit: impl FnMut(&mut StoppedThread<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut failed = None;
        let mut running = Vec::new();
        for tid in tids {
            if let Some(timeout) = self.out_of_time() {
                let (pid, tid) = (self.pid(), *tid);
                return Err(StopError::TimedOut { pid, tid, timeout }.into());
            }
            match self.task(*tid).stat() {
                Ok(Some(stat)) if stat.state == TaskState::Running => running.push(*tid),
                _ => {
                    // Not the whole time for each of them.
                    let timeout = failed.as_ref().map_or(timeout, |_| timeout.min(TURN));
                    self.visit_group(&[*tid], timeout, &mut failed, &mut visit)?;
                }
            }
        }
        let turns = u32::try_from(running.len()).unwrap_or(u32::MAX);
        self.visit_group(
            &running,
            timeout.saturating_add(TURN.saturating_mul(turns)),
            &mut failed,
            &mut visit,
        )?;
        match failed {
            Some(error) => Err(error.into()),
            None if self.is_alive() => Ok(()),
            None => Err(StopError::Gone { pid: self.pid() }.into()),
        }
    }

    /// Notes that one of them could not be stopped; all else is final.
    fn visit_group<E: From<StopError>>(
        &self,
        tids: &[i32],
        timeout: Duration,
        failed: &mut Option<StopError>,
        visit: &mut impl FnMut(&mut StoppedThread<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.try_to_visit(tids, timeout, visit) {
            Ok(visited) => visited,
            Err(
                error @ (StopError::TimedOut { .. }
                | StopError::Uninterruptible { .. }
                | StopError::Vfork { .. }
                | StopError::AlreadyTraced { .. }
                | StopError::PermissionDenied { .. }),
            ) => {
                failed.get_or_insert(error);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn try_to_visit<E>(
        &self,
        tids: &[i32],
        timeout: Duration,
        visit: &mut impl FnMut(&mut StoppedThread<'_>) -> Result<(), E>,
    ) -> Result<Result<(), E>, StopError> {
        let deadline = self.patience(timeout);
        let mut tracees = Tracees::seize_some(self, tids, &deadline)?;
        tracees.start_alarm()?;
        tracees.wanted = true;
        let (runners, sleepers) = tracees.running_by_kind()?;
        let mut asked = Asked::none(runners.into_iter().chain(sleepers));
        while let Some(tid) = tracees.next_to_stand_still(&mut asked, &deadline)? {
            // A thread that one of them has started is none of those that are to be shown.
            let asked_for = tids.contains(&tid);
            if let Some(mut thread) = tracees.stopped_thread(tid).filter(|_| asked_for)
                && let Err(error) = visit(&mut thread)
            {
                if let Err(error) = tracees.release() {
                    tracing::debug!(%error, "after a failed look");
                }
                return Ok(Err(error));
            }
            tracees.detach_one(tid)?;
        }
        tracees.release()?;
        Ok(Ok(()))
    }
}

/// Which threads have been asked to stop.
struct Asked {
    /// Those that have not.
    left: VecDeque<i32>,
    /// How many may be on their way at a time.
    at_a_time: usize,
    on_their_way: usize,
}

impl Asked {
    fn none(left: impl Iterator<Item = i32>) -> Self {
        Self {
            left: left.collect(),
            at_a_time: 1,
            on_their_way: 0,
        }
    }
}

impl Tracees {
    /// Waits until one more thread stands still; `None` if none is left, or the time is up.
    fn next_to_stand_still(
        &mut self,
        asked: &mut Asked,
        deadline: &Deadline,
    ) -> Result<Option<i32>, StopError> {
        let mut misled = false;
        let mut waits_since = Instant::now();
        loop {
            if let Some(tid) = self.look_for_stopped()? {
                // It may have stopped without having been asked: a signal came.
                asked.left.retain(|it| *it != tid);
                asked.on_their_way = asked.on_their_way.saturating_sub(1);
                return Ok(Some(tid));
            }
            self.release_strangers();
            if self.threads.is_empty() && !self.adopt_program()? {
                return Ok(None);
            }
            if deadline.has_passed() {
                return Ok(None);
            }
            while asked.on_their_way < asked.at_a_time
                && let Some(tid) = asked.left.pop_front()
            {
                self.interrupt(&[tid])?;
                asked.on_their_way += 1;
            }
            if misled {
                std::thread::sleep(LOOK_AGAIN);
            }
            let waited = wait_for_any();
            misled = waited.map_err(|error| self.system("wait for threads", error))?;
            if waits_since.elapsed() >= A_WHILE {
                // They wait for a processor, or have ended.
                asked.at_a_time = asked.at_a_time.saturating_mul(2);
                self.forget_ended_leader(self.pid())?;
                waits_since = Instant::now();
            }
        }
    }

    /// Answers what has happened, until a thread stands still.
    fn look_for_stopped(&mut self) -> Result<Option<i32>, StopError> {
        // The first thread of a killed process can be reaped only after all others.
        let tids: Vec<i32> = self.threads.keys().rev().copied().collect();
        for tid in tids {
            self.service_one(tid)?;
            if self.executed {
                return Err(StopError::Executed { pid: self.pid() });
            }
            if self.is_stopped(tid) {
                if self.was_running(tid) {
                    self.hurry();
                }
                return Ok(Some(tid));
            }
        }
        Ok(None)
    }
}
