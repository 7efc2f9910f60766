//! Stopping all traced threads, in the order and within the time that hurts least.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::io::Errno;

use crate::process::deadline::Deadline;
use crate::process::task::{TaskStat, TaskState, or_gone};
use crate::sys::ptrace;
use crate::sys::wait::{AT_ONCE, Waited, wait_soon};
use crate::trace::stop_error::StopError;
use crate::trace::tracees::{Condition, Tracee, Tracees};

/// How often a thread in an uninterruptible sleep is looked at. There is no event to wait for: a
/// stop request would leave it stopped whenever it wakes, perhaps long after we have given up.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

impl Tracees {
    /// Stops the threads that sleep. Those that run, or are found to run by now, go on.
    pub(crate) fn stop_sleepers(&mut self, deadline: &Deadline) -> Result<(), StopError> {
        self.start_alarm()?;
        self.wanted = true;
        let (runners, sleepers) = self.running_by_kind()?;
        // For the next stop, in which they may happen to sleep.
        runners.iter().for_each(|tid| {
            self.process.judge_liveliness(*tid);
        });
        let quiet = self.quiet(sleepers);
        self.interrupt_and_await(&quiet, deadline)?;
        // From now on, whatever happens to those that run is answered by letting go.
        self.wanted = false;
        self.refuse_end_of_program()
    }

    /// Those of the sleepers that do not wake often; at least one, which calls can be made in. The others
    /// are treated as if they ran.
    fn quiet(&mut self, sleepers: Vec<i32>) -> Vec<i32> {
        let process = &self.process;
        let (mut lively, mut quiet): (Vec<i32>, Vec<i32>) = sleepers
            .into_iter()
            .partition(|tid| process.judge_liveliness(*tid));
        if quiet.is_empty() {
            let slices = |tid: &i32| process.slices(*tid).ok().flatten();
            let least = lively.iter().copied().min_by_key(slices);
            quiet.extend(least);
            lively.retain(|tid| Some(*tid) != least);
        }
        process.excuse_all();
        self.lively.extend(lively);
        quiet
    }

    fn refuse_end_of_program(&self) -> Result<(), StopError> {
        if self.executed {
            return Err(StopError::Executed { pid: self.pid() });
        }
        if self.threads.is_empty() || !self.process.is_alive() {
            return Err(self.gone());
        }
        Ok(())
    }

    /// Stops every thread: sleepers first, so that those who run stand still as briefly as possible.
    pub(crate) fn stop(&mut self, deadline: &Deadline) -> Result<(), StopError> {
        self.start_alarm()?;
        self.wanted = true;
        if self.everyone && !self.any_stopped() {
            self.process.excuse_all();
        }
        if self.everyone && self.directory.is_none() {
            let directory = File::open(format!("/proc/{}/task", self.pid()));
            let directory = or_gone(directory);
            self.directory = directory.map_err(|error| self.system("list the threads", error))?;
        }
        loop {
            let (runners, sleepers) = self.running_by_kind()?;
            self.interrupt_and_await(&sleepers, deadline)?;
            // Where there are none, to ask for a hurry would cost more than it brings.
            if !runners.is_empty() || !self.lively.is_empty() {
                self.hurry();
                self.interrupt_and_await(&runners, deadline)?;
            }
            self.refuse_end_of_program()?;
            let all = self
                .threads
                .values()
                .all(|tracee| tracee.condition != Condition::Running);
            if all && self.is_complete() {
                break;
            }
            if deadline.has_passed() {
                return Err(self.too_slow(self.pid(), deadline));
            }
            if self.everyone {
                self.seize_unknown()?;
            }
        }
        self.release_strangers();
        Ok(())
    }

    /// Every thread that is started while we trace is announced to us, except with
    /// `CLONE_UNTRACED`. The link count of the task directory, two more than threads, tells of these
    /// at the price of one system call. It is asked for while everybody waits, so the directory is
    /// opened before: the count is made anew for each question.
    pub(crate) fn is_complete(&self) -> bool {
        if !self.everyone {
            return true;
        }
        let expected = self.threads.len() as u64 + self.ended + 2;
        let now = self.directory.as_ref().map(File::metadata);
        matches!(now, Some(Ok(now)) if now.nlink() == expected)
    }

    /// Waits, with everybody still running, until no thread is in an uninterruptible sleep.
    ///
    /// Such a thread would not follow a stop request, the others would stand still for it, and when
    /// we gave up it would stop later, with nobody to let it go on. What was seen of those that have not ended.
    pub(crate) fn await_uninterruptible(
        &mut self,
        tids: &[i32],
        deadline: &Deadline,
    ) -> Result<HashMap<i32, TaskStat>, StopError> {
        let mut seen = HashMap::new();
        for tid in tids {
            loop {
                let stat = self.process.task(*tid).stat();
                match stat.map_err(|error| self.system("read the state", error))? {
                    Some(stat) if stat.state == TaskState::Uninterruptible => {}
                    Some(stat) => {
                        seen.insert(*tid, stat);
                        break;
                    }
                    None => break,
                }
                if self.process.wait_for_end(LOOK_AGAIN) {
                    return Err(self.gone());
                }
                if deadline.has_passed() {
                    return Err(self.too_slow(*tid, deadline));
                }
                self.service()?;
            }
        }
        Ok(seen)
    }

    /// The threads that we have not stopped: those on a processor, and the others.
    pub(crate) fn running_by_kind(&mut self) -> Result<(Vec<i32>, Vec<i32>), StopError> {
        let (mut runners, mut sleepers) = (Vec::new(), Vec::new());
        let running = |tracee: &Tracee| tracee.condition == Condition::Running;
        let all: Vec<i32> = self
            .threads
            .iter()
            .filter(|(_, tracee)| running(tracee))
            .map(|(tid, _)| *tid)
            .collect();
        let mut seen = std::mem::take(&mut self.seen);
        for tid in all {
            let stat = match seen.remove(&tid) {
                Some(stat) => Ok(Some(stat)),
                None => self.process.task(tid).stat(),
            };
            let stat = stat.map_err(|error| self.system("read the state", error))?;
            let Some(tracee) = self.threads.get_mut(&tid) else {
                continue;
            };
            match stat {
                // An ended first thread is not reported to us before all others are gone.
                Some(stat) if stat.state == TaskState::Dead && tid == self.process.pid() => {
                    self.threads.remove(&tid);
                    self.ended += 1;
                }
                Some(stat) => {
                    tracee.is_kernel_worker = stat.is_kernel_worker();
                    let is_running = stat.state == TaskState::Running;
                    // It may sleep in the second half of a stop.
                    tracee.was_running |= is_running;
                    if is_running {
                        runners.push(tid);
                        self.runners.push(tid);
                    } else {
                        sleepers.push(tid);
                    }
                }
                None => sleepers.push(tid),
            }
        }
        Ok((runners, sleepers))
    }

    fn interrupt_and_await(&mut self, tids: &[i32], deadline: &Deadline) -> Result<(), StopError> {
        self.interrupt(tids)?;
        for tid in tids {
            self.await_stop(*tid, deadline)?;
        }
        Ok(())
    }

    pub(crate) fn interrupt(&self, tids: &[i32]) -> Result<(), StopError> {
        for tid in tids {
            match ptrace::interrupt(*tid) {
                // ESRCH, EIO: it has ended; the wait will say so.
                Ok(()) | Err(Errno::SRCH | Errno::IO) => {}
                Err(error) => return Err(self.system("interrupt a thread", error)),
            }
        }
        Ok(())
    }

    pub(crate) fn is_running(&self, tid: i32) -> bool {
        let tracee = self.threads.get(&tid);
        tracee.is_some_and(|tracee| tracee.condition == Condition::Running)
    }

    pub(crate) fn await_stop(&mut self, tid: i32, deadline: &Deadline) -> Result<(), StopError> {
        while self.is_running(tid) {
            match wait_soon(tid, AT_ONCE, || None)
                .map_err(|error| self.system("wait for a thread", error))?
            {
                Waited::Event(event) => self.note(tid, event)?,
                Waited::Nothing => {
                    // Another thread may have ended, and the one we wait for may wait, inside an
                    // exec, until somebody has taken note of that.
                    self.service_except(Some(tid))?;
                    self.forget_ended_leader(tid)?;
                    if deadline.has_passed() && self.is_running(tid) {
                        return Err(self.too_slow(tid, deadline));
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn forget_ended_leader(&mut self, tid: i32) -> Result<(), StopError> {
        if tid != self.pid() {
            return Ok(());
        }
        let stat = self.process.task(tid).stat();
        let stat = stat.map_err(|error| self.system("read the state", error))?;
        if stat.is_none_or(|stat| stat.state == TaskState::Dead) {
            self.threads.remove(&tid);
            self.ended += 1;
        }
        Ok(())
    }

    /// Why does a thread not stop?
    fn too_slow(&self, tid: i32, deadline: &Deadline) -> StopError {
        let pid = self.pid();
        let task = self.process.task(tid);
        if matches!(task.status(), Ok(Some(status)) if status.core_dumping) {
            return StopError::CoreDumping { pid };
        }
        let timeout = deadline.timeout();
        match task.stat() {
            Ok(Some(stat)) if stat.state == TaskState::Uninterruptible => {
                let activity = task.activity().ok().flatten();
                match self.process.frozen_by() {
                    Some(group) => StopError::Frozen { pid, group },
                    None => StopError::uninterruptible(pid, tid, timeout, activity),
                }
            }
            _ if !self.process.is_alive() => self.gone(),
            _ => StopError::TimedOut { pid, tid, timeout },
        }
    }
}
