//! Until when something is tried.

use std::cell::Cell;
use std::time::{Duration, Instant};

use engraft_process::Process;

/// Pauses between two looks at threads that are in the way: short at first, and then longer, so that a
/// thread that stays for long is not stopped too often.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Pauses where what is in the way is over in microseconds.
const SHORTEST_PAUSE: Duration = Duration::from_micros(100);

/// Until when something is tried, with growing pauses.
pub(crate) struct Deadline {
    pub(crate) timeout: Duration,
    end: engraft_process::Deadline,
    pause: Cell<Duration>,
    tries: Cell<u32>,
}

impl Deadline {
    /// The time of a command for a process. Everything that is done with the process ends then; what has to be
    /// undone, within a second more.
    pub(crate) fn of(process: &Process, timeout: Duration) -> Self {
        process.limit_time(timeout);
        Self::after(timeout)
    }

    pub(crate) fn after(timeout: Duration) -> Self {
        Self {
            timeout,
            end: engraft_process::Deadline::after(timeout),
            pause: FIRST_PAUSE.into(),
            tries: Cell::new(0),
        }
    }

    /// Whether the time is up.
    pub(crate) fn has_passed(&self) -> bool {
        self.end.has_passed()
    }

    /// When the time is up.
    pub(crate) fn end(&self) -> Instant {
        const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Instant::now() + self.end.left().min(A_DAY)
    }

    /// Lets the target run for a moment; an error when the time is up.
    pub(crate) fn wait(&self) -> Result<(), Duration> {
        let pause = self.pause.get();
        if pause > self.end.left() {
            return Err(self.timeout);
        }
        std::thread::sleep(pause);
        self.pause.set((pause * 2).min(LONGEST_PAUSE));
        Ok(())
    }

    /// The same, but no longer than until something is done, which can be asked for all the time.
    pub(crate) fn wait_until(&self, mut is_done: impl FnMut() -> bool) -> Result<(), Duration> {
        let pause = self.pause.get();
        if pause > self.end.left() {
            return Err(self.timeout);
        }
        let end = Instant::now() + pause;
        let mut next = SHORTEST_PAUSE;
        while Instant::now() < end {
            if is_done() {
                return Ok(());
            }
            std::thread::sleep(next);
            next = (next * 2).min(LONGEST_PAUSE / 10);
        }
        self.pause.set((pause * 2).min(LONGEST_PAUSE));
        Ok(())
    }

    /// The same for what is over in microseconds, but may come again and again: a thread at work in the
    /// loader. Many short tries; the pauses differ, so as not to keep step with the target.
    pub(crate) fn wait_briefly(&self) -> Result<(), Duration> {
        if self.end.has_passed() {
            return Err(self.timeout);
        }
        let tries = self.tries.get().wrapping_add(1);
        self.tries.set(tries);
        std::thread::sleep(SHORTEST_PAUSE * (1 + tries % 7));
        Ok(())
    }
}
