//! Which sleepers wake often: those are stopped late and let go early, as if they ran.
//!
//! A thread with a timer of a millisecond sleeps nearly always, but would notice if it was among the first
//! of hundreds to be stopped. The scheduler counts how often each thread got a processor.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;

use crate::process::Process;

/// How often each thread had got a processor when it was last looked at.
#[derive(Debug, Default)]
pub(crate) struct Liveliness(Mutex<HashMap<i32, u64>>);

impl Process {
    /// Begins to watch, from now on, which threads wake often. A millisecond or two later a stop can tell.
    pub fn watch_sleepers(&self) {
        let slices = |tid| {
            let counters = self.task(tid).scheduler_counters().ok()??;
            Some((tid, counters.slices))
        };
        let now = self.threads().unwrap_or_default();
        if let Ok(mut known) = self.shared.liveliness.0.lock() {
            known.extend(now.into_iter().filter_map(slices));
        }
    }

    /// How often a thread has got a processor, about: what was seen when it was last looked at will do. `None` if
    /// the kernel does not count.
    pub(crate) fn slices(&self, tid: i32) -> io::Result<Option<u64>> {
        let known = self.shared.liveliness.0.lock();
        if let Some(slices) = known.ok().and_then(|known| known.get(&tid).copied()) {
            return Ok(Some(slices));
        }
        let counters = self.task(tid).scheduler_counters()?;
        Ok(counters.map(|counters| counters.slices))
    }

    /// How often a thread has woken since it was last looked at; 0 if it never was, or if it was us who
    /// woke it.
    pub(crate) fn times_woken(&self, tid: i32) -> u64 {
        let Ok(known) = self.shared.liveliness.0.lock() else {
            return 0;
        };
        let (Some(then), false) = (known.get(&tid), self.is_quiet(tid)) else {
            return 0;
        };
        let counters = self.task(tid).scheduler_counters().ok().flatten();
        counters.map_or(0, |now| now.slices.saturating_sub(*then))
    }
}
