//! Which threads wake often: those are stopped late and let go early, as if they ran.
//!
//! A thread with a timer of a millisecond sleeps nearly always, but would notice if it was among the first
//! of hundreds to be stopped, or if calls were made in it. The scheduler counts how often each thread got a
//! processor.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::process::handle::Process;

/// Who wakes less often than once in this time does not wake often.
const OFTEN: Duration = Duration::from_millis(20);

/// How often a thread may get a processor because of one stop of ours: to stop, and to go back to sleep, each with an
/// interruption, and a short call.
const SLICES_OF_A_STOP: u64 = 6;

/// What was seen of each thread.
#[derive(Debug, Default)]
pub(crate) struct Liveliness(Mutex<HashMap<i32, Seen>>);

/// What was seen of one thread.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// When it was last looked at.
    when: Instant,
    /// How often it had got a processor then.
    slices: u64,
    /// How often we have stopped it since, and once more if what was begun before may come to its end only now.
    stops: u64,
    /// Whether we have stopped it since.
    was_stopped: bool,
    /// Whether it was found to wake often.
    is_lively: bool,
}

impl Seen {
    fn stop(&mut self) {
        self.stops += 1;
        self.was_stopped = true;
    }

    /// Judges by how often it has got a processor by now. What the last look has found stands while too little time
    /// has passed to find anything else.
    fn is_lively(&self, slices: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.when);
        let woken = slices.saturating_sub(self.slices + self.stops * SLICES_OF_A_STOP);
        let often = OFTEN.saturating_mul(u32::try_from(woken).unwrap_or(u32::MAX)) > passed;
        let may_sleep_on = self.is_lively && passed < OFTEN;
        may_sleep_on || often
    }
}

impl Process {
    /// Looks, without stopping anybody, which threads wake often. A millisecond or two after the first look a
    /// stop, or the next look, can tell.
    pub fn watch_sleepers(&self) {
        self.look_at_sleepers(true);
    }

    /// The same after others may have stopped the threads: how often they have woken since the last look says
    /// nothing.
    pub fn watch_sleepers_anew(&self) {
        self.look_at_sleepers(false);
    }

    fn look_at_sleepers(&self, judge: bool) {
        let Ok(mut seen) = self.shared.liveliness.0.lock() else {
            return;
        };
        let tids = self.threads().unwrap_or_default();
        let before = std::mem::take(&mut *seen);
        seen.extend(tids.into_iter().filter_map(|tid| {
            let slices = self.count_slices(tid).ok()??;
            let when = Instant::now();
            let before = before.get(&tid);
            let judged = |it: &Seen| match judge && !self.is_quiet(tid) {
                true => it.is_lively(slices, when),
                false => it.is_lively,
            };
            let seen = Seen {
                when,
                slices,
                stops: u64::from(!judge || before.is_some_and(|it| it.was_stopped)),
                was_stopped: false,
                is_lively: before.is_some_and(judged),
            };
            Some((tid, seen))
        }));
    }

    /// This thread is about to be stopped by us, which wakes it if it sleeps.
    pub(crate) fn excuse(&self, tid: i32) {
        if let Ok(mut seen) = self.shared.liveliness.0.lock()
            && let Some(seen) = seen.get_mut(&tid)
        {
            seen.stop();
        }
    }

    /// All threads are.
    pub(crate) fn excuse_all(&self) {
        if let Ok(mut seen) = self.shared.liveliness.0.lock() {
            seen.values_mut().for_each(Seen::stop);
        }
    }

    fn count_slices(&self, tid: i32) -> io::Result<Option<u64>> {
        let counters = self.task(tid).scheduler_counters()?;
        Ok(counters.map(|counters| counters.slices))
    }

    fn seen(&self, tid: i32) -> Option<Seen> {
        let seen = self.shared.liveliness.0.lock().ok()?;
        seen.get(&tid).copied()
    }

    /// How often a thread has got a processor, about: what was seen when it was last looked at will do. `None` if
    /// the kernel does not count.
    pub(crate) fn slices(&self, tid: i32) -> io::Result<Option<u64>> {
        match self.seen(tid) {
            Some(seen) => Ok(Some(seen.slices)),
            None => self.count_slices(tid),
        }
    }

    /// Whether a thread was found to wake often, at the looks so far.
    pub(crate) fn was_lively(&self, tid: i32) -> bool {
        self.seen(tid).is_some_and(|seen| seen.is_lively)
    }

    /// Whether a thread wakes often: one more look. Not if it never was looked at, or if it is the one in which we
    /// make calls.
    pub(crate) fn judge_liveliness(&self, tid: i32) -> bool {
        let Ok(mut all) = self.shared.liveliness.0.lock() else {
            return false;
        };
        let Some(seen) = all.get_mut(&tid) else {
            return false;
        };
        if !self.is_quiet(tid)
            && let Ok(Some(slices)) = self.count_slices(tid)
        {
            seen.is_lively = seen.is_lively(slices, Instant::now());
        }
        seen.is_lively
    }
}
