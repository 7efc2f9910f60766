//! Trying again with growing pauses, until a deadline.

use std::cell::Cell;
use std::time::{Duration, Instant};

use engraft_process::{Deadline, Process};

/// Pauses between two looks at threads that are in the way: short at first, and then longer, so
/// that a thread that stays for long is not stopped too often.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The shortest pause, for obstacles that last microseconds.
const SHORTEST_PAUSE: Duration = Duration::from_micros(100);

/// The pauses between several tries, until a deadline.
pub(crate) struct Backoff {
    deadline: Deadline,
    pause: Cell<Duration>,
    tries: Cell<u32>,
}

impl Backoff {
    /// Begins the time of a command for a process. Everything that is done with the process ends
    /// then; what has to be undone, within a second more.
    pub(crate) fn of(process: &Process, timeout: Duration) -> Self {
        process.limit_time(timeout);
        Self::after(timeout)
    }

    /// A deadline that does not bound what is done with a process.
    pub(crate) fn after(timeout: Duration) -> Self {
        Self {
            deadline: Deadline::after(timeout),
            pause: FIRST_PAUSE.into(),
            tries: Cell::new(0),
        }
    }

    /// The whole time from the start to the deadline.
    pub(crate) fn timeout(&self) -> Duration {
        self.deadline.timeout()
    }

    /// Whether the time is up.
    pub(crate) fn has_passed(&self) -> bool {
        self.deadline.has_passed()
    }

    /// When the time is up.
    pub(crate) fn end(&self) -> Instant {
        const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Instant::now() + self.deadline.left().min(A_DAY)
    }

    /// Lets the target run for a moment.
    ///
    /// # Errors
    /// The whole time, if less is left than the pause takes.
    pub(crate) fn wait(&self) -> Result<(), Duration> {
        let pause = self.pause.get();
        if pause > self.deadline.left() {
            return Err(self.timeout());
        }
        std::thread::sleep(pause);
        self.pause.set((pause * 2).min(LONGEST_PAUSE));
        Ok(())
    }

    /// Lets the target run for a moment, but no longer than until `is_done` says so, which can be
    /// asked at any time.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub(crate) fn wait_until(&self, mut is_done: impl FnMut() -> bool) -> Result<(), Duration> {
        let pause = self.pause.get();
        if pause > self.deadline.left() {
            return Err(self.timeout());
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

    /// Waits for an obstacle that lasts microseconds, but may come again and again: a thread at
    /// work in the loader. The pauses are short, and differ so as not to keep step with the target.
    ///
    /// # Errors
    /// The whole time, if it is up.
    pub(crate) fn wait_briefly(&self) -> Result<(), Duration> {
        if self.deadline.has_passed() {
            return Err(self.timeout());
        }
        let tries = self.tries.get().wrapping_add(1);
        self.tries.set(tries);
        std::thread::sleep(SHORTEST_PAUSE * (1 + tries % 7));
        Ok(())
    }
}
