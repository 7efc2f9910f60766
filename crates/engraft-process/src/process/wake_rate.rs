//! Which threads wake often: these are stopped late and resumed early, as if they ran.
//!
//! A thread with a timer of a millisecond sleeps nearly always, but would be disturbed if it was
//! among the first of hundreds to be stopped, or if calls were made in it. The scheduler counts how
//! often each thread got a processor.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::process::handle::Process;

/// A thread that wakes less often than once in this time does not wake often.
const OFTEN: Duration = Duration::from_millis(20);

/// How often a thread may get a processor because of one stop of ours: to stop, and to fall asleep
/// again, each with an interruption, and for a short call.
const SLICES_OF_A_STOP: u64 = 6;

/// What was seen of each thread.
#[derive(Debug, Default)]
pub(super) struct WakeRates(Mutex<HashMap<i32, WakeRate>>);

/// What was seen of one thread.
#[derive(Debug, Clone, Copy)]
struct WakeRate {
    /// When the thread was last looked at.
    when: Instant,
    /// How often it had got a processor then.
    slices: u64,
    /// Stops of ours since then, plus one if an earlier stop may only now have taken effect.
    stops: u64,
    /// Whether we have stopped the thread since then.
    was_stopped: bool,
    wakes_often: bool,
}

impl WakeRate {
    fn stop(&mut self) {
        self.stops += 1;
        self.was_stopped = true;
    }

    /// Judges by how often the thread has got a processor by now. The result of the last look holds
    /// while too little time has passed for another one.
    fn judge(&self, slices: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.when);
        let woken = slices.saturating_sub(self.slices + self.stops * SLICES_OF_A_STOP);
        let often = OFTEN.saturating_mul(u32::try_from(woken).unwrap_or(u32::MAX)) > passed;
        let is_too_early = passed < OFTEN;
        (self.wakes_often && is_too_early) || often
    }
}

impl Process {
    /// Looks, without stopping any thread, which threads wake often. A stop, or another look, a
    /// millisecond or two later can tell.
    pub fn watch_sleepers(&self) {
        self.look_at_sleepers(true);
    }

    /// Looks in the same way after another process may have stopped the threads: then how often
    /// they have woken since the last look says nothing.
    pub fn watch_sleepers_anew(&self) {
        self.look_at_sleepers(false);
    }

    fn look_at_sleepers(&self, judge: bool) {
        let Ok(mut rates) = self.shared.wake_rates.0.lock() else {
            return;
        };
        let tids = self.threads().unwrap_or_default();
        let before = std::mem::take(&mut *rates);
        rates.extend(tids.into_iter().filter_map(|tid| {
            let slices = self.count_slices(tid).ok()??;
            let when = Instant::now();
            let before = before.get(&tid);
            let wakes_often = |it: &WakeRate| match judge && !self.is_call_thread(tid) {
                true => it.judge(slices, when),
                false => it.wakes_often,
            };
            let rate = WakeRate {
                when,
                slices,
                stops: u64::from(!judge || before.is_some_and(|it| it.was_stopped)),
                was_stopped: false,
                wakes_often: before.is_some_and(wakes_often),
            };
            Some((tid, rate))
        }));
    }

    /// We are about to stop this thread, which wakes it if it sleeps.
    pub(crate) fn expect_stop_of(&self, tid: i32) {
        if let Ok(mut rates) = self.shared.wake_rates.0.lock()
            && let Some(rate) = rates.get_mut(&tid)
        {
            rate.stop();
        }
    }

    /// We are about to stop all threads.
    pub(crate) fn expect_stop_of_all(&self) {
        if let Ok(mut rates) = self.shared.wake_rates.0.lock() {
            rates.values_mut().for_each(WakeRate::stop);
        }
    }

    fn count_slices(&self, tid: i32) -> io::Result<Option<u64>> {
        let counters = self.task(tid).scheduler_counters()?;
        Ok(counters.map(|counters| counters.slices))
    }

    fn wake_rate(&self, tid: i32) -> Option<WakeRate> {
        let rates = self.shared.wake_rates.0.lock().ok()?;
        rates.get(&tid).copied()
    }

    /// About how often a thread has got a processor: at the last look, if there was one. `None` if
    /// the kernel does not count.
    pub(crate) fn slices(&self, tid: i32) -> io::Result<Option<u64>> {
        match self.wake_rate(tid) {
            Some(rate) => Ok(Some(rate.slices)),
            None => self.count_slices(tid),
        }
    }

    /// Whether a thread woke often at the looks so far.
    pub(crate) fn woke_often(&self, tid: i32) -> bool {
        self.wake_rate(tid).is_some_and(|rate| rate.wakes_often)
    }

    /// Whether a thread wakes often, by one more look. Not if it was never looked at. The call
    /// thread is not judged anew: our calls wake it.
    pub(crate) fn wakes_often(&self, tid: i32) -> bool {
        let Ok(mut rates) = self.shared.wake_rates.0.lock() else {
            return false;
        };
        let Some(rate) = rates.get_mut(&tid) else {
            return false;
        };
        if !self.is_call_thread(tid)
            && let Ok(Some(slices)) = self.count_slices(tid)
        {
            rate.wakes_often = rate.judge(slices, Instant::now());
        }
        rate.wakes_often
    }
}
