//! What the last check of a blocked thread has shown, and when the next one is due.
//!
//! Stopping a thread costs it and its neighbours time, so two kinds of threads are checked less often: a thread that
//! sleeps where it slept is most likely still blocked, and a thread that has a door switches by itself if it calls a
//! replaced function again.

use std::time::{Duration, Instant};

use engraft_process::{Activity, Process};

use super::stack_check::BlockedThread;

/// How long a thread that seems to sleep on is not stopped. It may have left, and sleep at the same depth in another
/// function.
const SLEEPS_ON: Duration = Duration::from_millis(500);

/// How long a thread with a door is not stopped after its first check. The time doubles with each check, up to
/// [`SLEEPS_ON`]. Only a thread that never calls a replaced function again needs these checks.
const COMES_BACK: Duration = Duration::from_millis(10);

/// The last check of one thread.
pub(super) struct LastCheck {
    /// Where the thread was blocked.
    pub(super) blocked: BlockedThread,
    when: Instant,
    /// The check has shown where the thread sleeps. The stop in which a transition begins may have scanned the stack
    /// and nothing else.
    is_precise: bool,
    /// How long the thread is not stopped if it has a door.
    comes_back: Duration,
}

impl LastCheck {
    /// The check at the stop in which the transition began.
    pub(super) fn at_begin(blocked: BlockedThread) -> Self {
        Self {
            blocked,
            when: Instant::now(),
            is_precise: false,
            comes_back: COMES_BACK,
        }
    }

    /// A check at this moment. `before` is the one before it.
    pub(super) fn now(blocked: BlockedThread, before: Option<&Self>) -> Self {
        let comes_back = before.map_or(COMES_BACK, |before| before.comes_back * 2);
        Self {
            blocked,
            when: Instant::now(),
            is_precise: true,
            comes_back: comes_back.min(SLEEPS_ON),
        }
    }

    /// Whether another check would most likely find the thread blocked as before.
    pub(super) fn is_recent(&self, process: &Process, has_door: bool) -> bool {
        let comes_back = has_door && self.when.elapsed() < self.comes_back;
        comes_back || self.sleeps_on(process)
    }

    fn sleeps_on(&self, process: &Process) -> bool {
        if !self.is_precise || self.when.elapsed() >= SLEEPS_ON {
            return false;
        }
        match process.task(self.blocked.tid).activity() {
            Ok(Some(Activity::InSystemCall {
                stack_pointer,
                instruction_pointer,
                ..
            })) => self.blocked.place == (stack_pointer, instruction_pointer),
            _ => false,
        }
    }
}
