//! How far a stop has come: which threads have to be resumed early, and what helps us to be quick.

use std::collections::HashMap;

use rustix::io::Errno;

use crate::process::task::TaskStat;
use crate::sys::alarm::Alarm;
use crate::sys::time_slice::ShortSlice;

/// The state of one stop, from its first request until all threads are resumed.
#[derive(Default)]
pub(crate) struct StopProgress {
    /// Threads are to stop. Otherwise each stop that a thread reports is answered by resuming it.
    is_stopping: bool,
    /// The states of threads that were looked at right before they are stopped.
    stats: HashMap<i32, TaskStat>,
    /// Stopped threads that were running: they are resumed first.
    runners: Vec<i32>,
    /// Threads that slept but wake often: they are resumed after the runners. If they were resumed
    /// first, the kernel would put them on a processor of a runner, which would wait there until
    /// their time slice ends.
    frequent_wakers: Vec<i32>,
    /// Ends blocking waits now and then. Kept for the whole stop: making a timer costs more than
    /// one wait.
    alarm: Option<Alarm>,
    /// Makes our own time slice short, from when running threads stop until they are resumed.
    short_slice: Option<ShortSlice>,
}

impl StopProgress {
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    pub(crate) fn set_stopping(&mut self, is_stopping: bool) {
        self.is_stopping = is_stopping;
    }

    pub(crate) fn set_stats(&mut self, stats: HashMap<i32, TaskStat>) {
        self.stats = stats;
    }

    pub(crate) fn take_stats(&mut self) -> HashMap<i32, TaskStat> {
        std::mem::take(&mut self.stats)
    }

    pub(crate) fn add_runner(&mut self, tid: i32) {
        self.runners.push(tid);
    }

    pub(crate) fn take_runners(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.runners)
    }

    pub(crate) fn add_frequent_wakers(&mut self, tids: Vec<i32>) {
        self.frequent_wakers.extend(tids);
    }

    pub(crate) fn has_frequent_wakers(&self) -> bool {
        !self.frequent_wakers.is_empty()
    }

    pub(crate) fn take_frequent_wakers(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.frequent_wakers)
    }

    /// Starts the alarm, unless it rings already.
    ///
    /// # Errors
    /// No timer can be made.
    pub(crate) fn start_alarm(&mut self) -> Result<(), Errno> {
        if self.alarm.is_none() {
            self.alarm = Some(Alarm::start()?);
        }
        Ok(())
    }

    pub(crate) fn end_alarm(&mut self) {
        self.alarm = None;
    }

    /// Running threads are about to be stopped: we get short time slices.
    pub(crate) fn shorten_slice(&mut self) {
        self.short_slice.get_or_insert_with(ShortSlice::begin);
    }

    /// They have been resumed.
    pub(crate) fn end_short_slice(&mut self) {
        self.short_slice = None;
    }
}
