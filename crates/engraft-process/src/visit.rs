//! Threads are looked at, each by itself, while all others go on.
//!
//! Those that sleep stop at once when they are asked to, so they are asked one after the other. Those that run stop
//! when they get a processor, so they are asked all together, and each is looked at and let go as soon as it stands
//! still. Next to hundreds of threads that want a processor this takes as long as it takes until each has had its
//! turn, and not that long for each.

use std::time::Duration;

use crate::deadline::Deadline;
use crate::process::Process;
use crate::stop_error::StopError;
use crate::stopped_thread::StoppedThread;
use crate::task::TaskState;
use crate::tracees::Tracees;
use crate::wait::{Waited, wait, wait_for_any};

/// How long one thread may keep a processor before another one's turn comes, on kernels that are slow in that.
const TURN: Duration = Duration::from_millis(10);

/// How often it is looked for events where a child of ours that is none of these threads has ended, and whoever
/// started it does not want to know.
const LOOK_AGAIN: Duration = Duration::from_micros(100);

impl Process {
    /// Shows each of these threads to `visit` while it stands still. Those that have ended are left out, and those
    /// that do not stop within `timeout` although they could.
    ///
    /// # Errors
    /// The first one, of stopping or of `visit`. Everything is let go then.
    pub fn visit_threads<E: From<StopError>>(
        &self,
        tids: &[i32],
        timeout: Duration,
        mut visit: impl FnMut(&mut StoppedThread<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let runs = |tid: &i32| {
            let stat = self.task(*tid).stat();
            matches!(stat, Ok(Some(stat)) if stat.state == TaskState::Running)
        };
        let (running, others): (Vec<i32>, Vec<i32>) = tids.iter().partition(|tid| runs(tid));
        for tid in others {
            self.visit_together(&[tid], timeout, &mut visit)?;
        }
        let turns = u32::try_from(running.len()).unwrap_or(u32::MAX);
        self.visit_together(&running, timeout + TURN * turns, &mut visit)?;
        match self.is_alive() {
            true => Ok(()),
            false => Err(StopError::Gone { pid: self.pid() }.into()),
        }
    }

    fn visit_together<E: From<StopError>>(
        &self,
        tids: &[i32],
        timeout: Duration,
        visit: &mut impl FnMut(&mut StoppedThread<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let deadline = Deadline::after(timeout);
        let mut tracees = Tracees::seize_some(self, tids, &deadline)?;
        tracees.interrupt_all()?;
        while let Some(tid) = tracees.next_to_stand_still(&deadline)? {
            tracees.hurry();
            // A thread that one of them has started is none of those that are to be shown.
            let asked_for = tids.contains(&tid);
            if let Some(mut thread) = tracees.stopped_thread(tid).filter(|_| asked_for) {
                visit(&mut thread)?;
            }
            tracees.detach_one(tid)?;
        }
        tracees.release()?;
        Ok(())
    }
}

impl Tracees {
    fn interrupt_all(&mut self) -> Result<(), StopError> {
        self.start_alarm()?;
        self.wanted = true;
        let (runners, sleepers) = self.running_by_kind()?;
        [runners, sleepers]
            .iter()
            .try_for_each(|tids| self.interrupt(tids))
    }

    /// Waits until one more thread stands still; `None` if none is left, or the time is up.
    fn next_to_stand_still(&mut self, deadline: &Deadline) -> Result<Option<i32>, StopError> {
        let mut misled = false;
        loop {
            let tids: Vec<i32> = self.threads.keys().copied().collect();
            for tid in tids {
                while self.is_running(tid) {
                    let waited = wait(tid, false);
                    match waited.map_err(|error| self.system("wait for a thread", error))? {
                        Waited::Event(event) => self.note(tid, event)?,
                        Waited::Nothing => break,
                    }
                }
                if self.executed {
                    return Err(StopError::Executed { pid: self.pid() });
                }
                if self.is_stopped(tid) {
                    return Ok(Some(tid));
                }
                self.forget_ended_leader(tid)?;
            }
            if self.threads.is_empty() || deadline.has_passed() {
                return Ok(None);
            }
            if misled {
                std::thread::sleep(LOOK_AGAIN);
            }
            let waited = wait_for_any();
            misled = waited.map_err(|error| self.system("wait for threads", error))?;
        }
    }
}
