//! Which sleepers wake often: those are stopped late and let go early, as if they ran.
//!
//! A thread with a timer of a millisecond sleeps nearly always, but would notice if it was among the first
//! of hundreds to be stopped, or if calls were made in it. The scheduler counts how often each thread got a
//! processor.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::process::Process;

/// What was seen of each thread.
#[derive(Debug, Default)]
pub(crate) struct Liveliness {
    seen: Mutex<HashMap<i32, Seen>>,
    /// A stop of ours has woken everybody since the last look: the counters tell of us.
    stirred: AtomicBool,
}

/// How often a thread may get a processor because of one stop of ours: to stop, and to go back to sleep, each with an
/// interruption. That may come later than the look after the stop.
const SLICES_OF_A_STOP: u64 = 4;

/// What was seen of one thread.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// How often it had got a processor at the last look.
    slices: u64,
    /// How often it may have got one since without having woken by itself.
    excused: u64,
    /// It has woken by itself between two looks.
    is_lively: bool,
}

impl Seen {
    /// Whether it has woken by itself since, given how often it has got a processor by now.
    fn has_woken(&self, slices: u64) -> bool {
        slices > self.slices + self.excused
    }
}

impl Process {
    /// Looks, without stopping anybody, which threads wake often. A millisecond or two after the first look a
    /// stop, or the next look, can tell.
    pub fn watch_sleepers(&self) {
        let liveliness = &self.shared.liveliness;
        // ORDERING: set and read by the thread that traces; a hint anyway.
        let stirred = liveliness.stirred.swap(false, Ordering::Relaxed);
        let Ok(mut seen) = liveliness.seen.lock() else {
            return;
        };
        let tids = self.threads().unwrap_or_default();
        let before = std::mem::take(&mut *seen);
        seen.extend(tids.into_iter().filter_map(|tid| {
            let slices = self.count_slices(tid).ok()??;
            let before = before.get(&tid);
            let woken = |it: &Seen| it.has_woken(slices) && !stirred && !self.is_quiet(tid);
            let seen = Seen {
                slices,
                excused: if stirred { SLICES_OF_A_STOP } else { 0 },
                is_lively: before.is_some_and(|it| it.is_lively || woken(it)),
            };
            Some((tid, seen))
        }));
    }

    /// All threads are about to be stopped, which wakes those that sleep.
    pub(crate) fn stir(&self) {
        // ORDERING: as above.
        self.shared
            .liveliness
            .stirred
            .store(true, Ordering::Relaxed);
    }

    fn count_slices(&self, tid: i32) -> io::Result<Option<u64>> {
        let counters = self.task(tid).scheduler_counters()?;
        Ok(counters.map(|counters| counters.slices))
    }

    fn seen(&self, tid: i32) -> Option<Seen> {
        let seen = self.shared.liveliness.seen.lock().ok()?;
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

    /// Whether a thread wakes often: one more look. Not if it never was looked at, or if it was us who woke it.
    pub(crate) fn judge_liveliness(&self, tid: i32) -> bool {
        let liveliness = &self.shared.liveliness;
        // ORDERING: as above.
        let stirred = liveliness.stirred.load(Ordering::Relaxed) || self.is_quiet(tid);
        let Ok(mut seen) = liveliness.seen.lock() else {
            return false;
        };
        let Some(seen) = seen.get_mut(&tid) else {
            return false;
        };
        if !seen.is_lively && !stirred {
            let now = self.count_slices(tid).ok().flatten();
            seen.is_lively = now.is_some_and(|now| seen.has_woken(now));
        }
        seen.is_lively
    }
}
