//! Stopping traced threads: sleeping ones first, so that running ones are stopped as briefly as
//! possible.

use std::collections::HashMap;
use std::time::Duration;

use crate::process::deadline::Deadline;
use crate::process::task::{TaskStat, TaskState};
use crate::sys::wait::{AT_ONCE, Waited, wait_soon};
use crate::trace::stop_error::StopError;
use crate::trace::tracees::Tracees;

/// Pause between two looks at a thread in an uninterruptible sleep. There is no event to wait for:
/// a stop request would leave the thread stopped whenever it wakes, perhaps long after we have
/// given up.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// Threads that are not stopped.
pub(super) struct Unstopped {
    /// On a processor, or waiting for one.
    pub(super) runners: Vec<i32>,
    pub(super) sleepers: Vec<i32>,
}

impl Tracees {
    /// Stops the threads that sleep. Those that run, or are found to run by now, continue.
    pub(crate) fn stop_sleepers(&mut self, deadline: &Deadline) -> Result<(), StopError> {
        self.start_alarm()?;
        self.progress.set_stopping(true);
        let Unstopped { runners, sleepers } = self.unstopped()?;
        // For the next stop, in which these may happen to sleep.
        for tid in runners {
            self.process().wakes_often(tid);
        }
        let seldom_wakers = self.set_frequent_wakers_aside(sleepers);
        self.interrupt_and_await(&seldom_wakers, deadline)?;
        // From now on each stop of a running thread is answered by resuming it.
        self.progress.set_stopping(false);
        self.refuse_end_of_program()
    }

    /// Notes which sleepers wake often, to treat these like running threads. Returns the others: at
    /// least one, in which calls can be made.
    fn set_frequent_wakers_aside(&mut self, sleepers: Vec<i32>) -> Vec<i32> {
        let process = self.process();
        let (mut frequent, mut seldom): (Vec<i32>, Vec<i32>) = sleepers
            .into_iter()
            .partition(|tid| process.wakes_often(*tid));
        if seldom.is_empty() {
            let slices = |tid: &i32| process.slices(*tid).ok().flatten();
            let least = frequent.iter().copied().min_by_key(slices);
            seldom.extend(least);
            frequent.retain(|tid| Some(*tid) != least);
        }
        process.expect_stop_of_all();
        self.progress.add_frequent_wakers(frequent);
        seldom
    }

    fn refuse_end_of_program(&self) -> Result<(), StopError> {
        if self.has_executed() {
            return Err(StopError::Executed { pid: self.pid() });
        }
        if self.threads.is_empty() || !self.process().is_alive() {
            return Err(self.gone());
        }
        Ok(())
    }

    /// Stops every thread: sleepers first, then runners.
    pub(crate) fn stop(&mut self, deadline: &Deadline) -> Result<(), StopError> {
        self.start_alarm()?;
        self.progress.set_stopping(true);
        if self.traces_all() {
            if !self.threads.any_stopped() {
                self.process().expect_stop_of_all();
            }
            let opened = self.threads.open_directory(self.pid());
            opened.map_err(|error| self.system("list the threads", error))?;
        }
        loop {
            let Unstopped { runners, sleepers } = self.unstopped()?;
            self.interrupt_and_await(&sleepers, deadline)?;
            // Without runners, a short time slice would cost more than it brings.
            if !runners.is_empty() || self.progress.has_frequent_wakers() {
                self.progress.shorten_slice();
                self.interrupt_and_await(&runners, deadline)?;
            }
            self.refuse_end_of_program()?;
            let is_complete = || !self.traces_all() || self.threads.are_complete();
            if !self.threads.any_running() && is_complete() {
                break;
            }
            if deadline.has_passed() {
                return Err(self.why_not_stopped(self.pid(), deadline));
            }
            if self.traces_all() {
                self.seize_unknown()?;
            }
        }
        self.detach_foreign_children();
        Ok(())
    }

    /// Waits, with all threads still running, until none of these is in an uninterruptible sleep.
    /// Returns what /proc showed of each thread that has not ended. A thread in such a sleep does
    /// not follow a stop request, and the others would be stopped for as long. If it stopped after
    /// we have given up, no tracer would resume it.
    pub(crate) fn await_uninterruptible(
        &mut self,
        tids: &[i32],
        deadline: &Deadline,
    ) -> Result<HashMap<i32, TaskStat>, StopError> {
        let mut stats = HashMap::new();
        for tid in tids {
            loop {
                let stat = self.process().task(*tid).stat();
                match stat.map_err(|error| self.system("read the state", error))? {
                    Some(stat) if stat.state == TaskState::Uninterruptible => {}
                    Some(stat) => {
                        stats.insert(*tid, stat);
                        break;
                    }
                    None => break,
                }
                if self.process().wait_for_end(LOOK_AGAIN) {
                    return Err(self.gone());
                }
                if deadline.has_passed() {
                    return Err(self.why_not_stopped(*tid, deadline));
                }
                self.handle_events()?;
            }
        }
        Ok(stats)
    }

    /// Waits as [`Self::await_uninterruptible`] does for all traced threads, and keeps what was
    /// seen for the stop that follows.
    pub(crate) fn await_all_uninterruptible(
        &mut self,
        deadline: &Deadline,
    ) -> Result<(), StopError> {
        let stats = self.await_uninterruptible(&self.threads.tids(), deadline)?;
        self.progress.set_stats(stats);
        Ok(())
    }

    /// The threads that are not stopped, by what they do.
    pub(super) fn unstopped(&mut self) -> Result<Unstopped, StopError> {
        let mut unstopped = Unstopped {
            runners: Vec::new(),
            sleepers: Vec::new(),
        };
        let mut stats = self.progress.take_stats();
        for tid in self.threads.running() {
            let stat = match stats.remove(&tid) {
                Some(stat) => Ok(Some(stat)),
                None => self.process().task(tid).stat(),
            };
            let stat = stat.map_err(|error| self.system("read the state", error))?;
            match stat {
                Some(stat) if stat.state == TaskState::Dead && tid == self.pid() => {
                    self.threads.remove_ended_leader(tid);
                    continue;
                }
                Some(stat) => self.threads.note_stat(tid, &stat),
                None => {}
            }
            match stat.map(|stat| stat.state) {
                Some(TaskState::Running) => {
                    unstopped.runners.push(tid);
                    self.progress.add_runner(tid);
                }
                _ => unstopped.sleepers.push(tid),
            }
        }
        Ok(unstopped)
    }

    fn interrupt_and_await(&mut self, tids: &[i32], deadline: &Deadline) -> Result<(), StopError> {
        self.interrupt(tids)?;
        for tid in tids {
            self.await_stop(*tid, deadline)?;
        }
        Ok(())
    }

    /// Waits until a thread that was asked to stop has stopped, or has ended.
    pub(super) fn await_stop(&mut self, tid: i32, deadline: &Deadline) -> Result<(), StopError> {
        while self.threads.is_running(tid) {
            let waited = wait_soon(tid, AT_ONCE, || None);
            match waited.map_err(|error| self.system("wait for a thread", error))? {
                Waited::Event(event) => self.handle(tid, event)?,
                Waited::Nothing => {
                    // Another thread may have ended, and the awaited one may wait, inside an exec,
                    // until that end is noted.
                    self.handle_events_except(Some(tid))?;
                    self.remove_ended_leader(tid)?;
                    if deadline.has_passed() && self.threads.is_running(tid) {
                        return Err(self.why_not_stopped(tid, deadline));
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes the thread if it is the first one and has ended.
    pub(super) fn remove_ended_leader(&mut self, tid: i32) -> Result<(), StopError> {
        if tid != self.pid() {
            return Ok(());
        }
        let stat = self.process().task(tid).stat();
        let stat = stat.map_err(|error| self.system("read the state", error))?;
        if stat.is_none_or(|stat| stat.state == TaskState::Dead) {
            self.threads.remove_ended_leader(tid);
        }
        Ok(())
    }

    /// The reason for which a thread has not stopped in time.
    fn why_not_stopped(&self, tid: i32, deadline: &Deadline) -> StopError {
        let pid = self.pid();
        let task = self.process().task(tid);
        if matches!(task.status(), Ok(Some(status)) if status.core_dumping) {
            return StopError::CoreDumping { pid };
        }
        let timeout = deadline.timeout();
        match task.stat() {
            Ok(Some(stat)) if stat.state == TaskState::Uninterruptible => {
                let activity = task.activity().ok().flatten();
                match self.process().frozen_by() {
                    Some(group) => StopError::Frozen { pid, group },
                    None => StopError::uninterruptible(pid, tid, timeout, activity),
                }
            }
            _ if !self.process().is_alive() => self.gone(),
            _ => StopError::TimedOut { pid, tid, timeout },
        }
    }
}
