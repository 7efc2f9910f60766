//! Stopping threads one by one, while all others run.
//!
//! A thread that sleeps or is on a processor stops at once: each is asked after the one before has
//! been detached. A thread that waits for a processor stops only when it gets one. Next to hundreds
//! of such threads, waiting for each by itself would take a time slice of all others each time. So
//! as long as none stops, twice as many are asked; a thread that has no processor loses nothing by
//! being asked early.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::process::deadline::Deadline;
use crate::sys::wait::wait_for_any;
use crate::trace::stop_error::StopError;
use crate::trace::stopping::Unstopped;
use crate::trace::tracees::Tracees;

/// A thread that has not stopped by then is not on a processor. Not shorter than the alarm's tick.
const NOT_RUNNING_AFTER: Duration = Duration::from_millis(5);

/// Poll interval while an unrelated child of ours has exited and its parent has not reaped it: then
/// a wait for any child returns at once.
const LOOK_AGAIN: Duration = Duration::from_micros(100);

/// Which threads have been asked to stop.
pub(crate) struct StopRequests {
    unasked: VecDeque<i32>,
    asked: usize,
    /// How many may be asked at a time.
    most_asked: usize,
}

impl Tracees {
    /// Prepares to stop all traced threads one by one: running ones first.
    pub(crate) fn begin_one_by_one(&mut self) -> Result<StopRequests, StopError> {
        self.start_alarm()?;
        self.progress.set_stopping(true);
        let Unstopped { runners, sleepers } = self.unstopped()?;
        Ok(StopRequests {
            unasked: runners.into_iter().chain(sleepers).collect(),
            asked: 0,
            most_asked: 1,
        })
    }

    /// Waits until one more thread is stopped; `None` if none is left, or the time is up.
    pub(crate) fn next_stopped(
        &mut self,
        requests: &mut StopRequests,
        deadline: &Deadline,
    ) -> Result<Option<i32>, StopError> {
        let mut is_poll = false;
        let mut waits_since = Instant::now();
        loop {
            if let Some(tid) = self.find_stopped()? {
                // A thread may stop unasked, for a signal.
                requests.unasked.retain(|it| *it != tid);
                requests.asked = requests.asked.saturating_sub(1);
                return Ok(Some(tid));
            }
            self.detach_foreign_children();
            if self.threads.is_empty() && !self.adopt_program()? {
                return Ok(None);
            }
            if deadline.has_passed() {
                return Ok(None);
            }
            while requests.asked < requests.most_asked
                && let Some(tid) = requests.unasked.pop_front()
            {
                self.interrupt(&[tid])?;
                requests.asked += 1;
            }
            if is_poll {
                std::thread::sleep(LOOK_AGAIN);
            }
            let waited = wait_for_any();
            is_poll = waited.map_err(|error| self.system("wait for threads", error))?;
            if waits_since.elapsed() >= NOT_RUNNING_AFTER {
                requests.most_asked = requests.most_asked.saturating_mul(2);
                self.remove_ended_leader(self.pid())?;
                waits_since = Instant::now();
            }
        }
    }

    /// Answers events until a thread is stopped.
    fn find_stopped(&mut self) -> Result<Option<i32>, StopError> {
        // The first thread of a killed process can be reaped only after all others.
        for tid in self.threads.tids().into_iter().rev() {
            self.handle_events_of(tid)?;
            if self.has_executed() {
                return Err(StopError::Executed { pid: self.pid() });
            }
            if self.threads.is_stopped(tid) {
                if self.threads.was_running(tid) {
                    self.progress.shorten_slice();
                }
                return Ok(Some(tid));
            }
        }
        Ok(None)
    }
}
