//! What the last check of a blocked thread has shown, and when the next one is due.
//!
//! Stopping a thread costs it and its neighbours time, so two kinds of threads are checked less
//! often: a thread that sleeps where it slept is most likely still blocked, and a thread that has a
//! door switches by itself if it calls a replaced function again.

use std::time::{Duration, Instant};

use engraft_process::{Activity, Process};

use super::stack_check::BlockedThread;

/// How long a thread that seems to sleep on is not stopped after its first check. It may have left,
/// and sleep at the same depth in another function.
///
/// The time doubles with each check, without a limit: after a stop, some system calls
/// (`epoll_wait`) wait for their full timeout again. A thread that was stopped more often than its
/// call takes would sleep as long as the transition is open.
const SLEEPS_ON: Duration = Duration::from_millis(500);

/// The same for a thread with a door: it switches by itself when its call returns, unless it never
/// calls a replaced function again. Longer than the usual turn of an idle event loop, which is a
/// second.
const SLEEPS_AT_DOOR: Duration = Duration::from_secs(2);

/// How long a thread with a door that does not seem to sleep on is not stopped after its first
/// check. The time doubles with each check, up to [`MOVES_ON`]. Only a thread that never calls a
/// replaced function again needs these checks.
const COMES_BACK: Duration = Duration::from_millis(10);
const MOVES_ON: Duration = Duration::from_millis(500);

/// The last check of one thread.
pub(super) struct LastCheck {
    /// Where the thread was blocked.
    pub(super) blocked: BlockedThread,
    when: Instant,
    /// The check has shown where the thread sleeps. The stop in which a transition begins may have
    /// scanned the stack and nothing else.
    is_precise: bool,
    /// How long the thread is not stopped if it has a door.
    comes_back: Duration,
    /// How many precise checks before this one have found the thread in the same place.
    same_place: u32,
}

impl LastCheck {
    /// The check at the stop in which the transition began.
    pub(super) fn at_begin(blocked: BlockedThread) -> Self {
        Self {
            blocked,
            when: Instant::now(),
            is_precise: false,
            comes_back: COMES_BACK,
            same_place: 0,
        }
    }

    /// A check at this moment. `before` is the one before it.
    pub(super) fn now(blocked: BlockedThread, before: Option<&Self>) -> Self {
        let comes_back = before.map_or(COMES_BACK, |before| before.comes_back * 2);
        let is_same = |before: &&Self| before.is_precise && before.blocked.place == blocked.place;
        let same_place = before
            .filter(is_same)
            .map_or(0, |before| before.same_place + 1);
        Self {
            blocked,
            when: Instant::now(),
            is_precise: true,
            comes_back: comes_back.min(MOVES_ON),
            same_place,
        }
    }

    /// Whether another check would most likely find the thread blocked as before.
    pub(super) fn is_recent(&self, process: &Process, has_door: bool) -> bool {
        let comes_back = has_door && self.when.elapsed() < self.comes_back;
        comes_back || self.sleeps_on(process, has_door)
    }

    fn sleeps_on(&self, process: &Process, has_door: bool) -> bool {
        if !self.is_precise || self.when.elapsed() >= self.patience(has_door) {
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

    /// How long the thread is not stopped while it seems to sleep on.
    fn patience(&self, has_door: bool) -> Duration {
        let first = match has_door {
            true => SLEEPS_AT_DOOR,
            false => SLEEPS_ON,
        };
        first.saturating_mul(2_u32.saturating_pow(self.same_place))
    }
}

#[cfg(test)]
mod tests {
    use engraft_process::TargetAddress;

    use super::*;
    use crate::error::BlockReason;

    fn blocked_at(place: u64) -> BlockedThread {
        BlockedThread {
            tid: 1,
            pointer: 1,
            place: (TargetAddress::new(1), TargetAddress::new(place)),
            reason: BlockReason::Sleeping,
            function: String::new(),
            frame: None,
            door: None,
        }
    }

    #[test]
    fn a_sleeper_is_left_alone_for_twice_as_long_after_each_check() {
        let first = LastCheck::now(blocked_at(5), Some(&LastCheck::at_begin(blocked_at(5))));
        assert_eq!(first.patience(false), SLEEPS_ON);
        assert_eq!(first.patience(true), SLEEPS_AT_DOOR);
        let second = LastCheck::now(blocked_at(5), Some(&first));
        assert_eq!(second.patience(false), SLEEPS_ON * 2);
        let third = LastCheck::now(blocked_at(5), Some(&second));
        assert_eq!(third.patience(true), SLEEPS_AT_DOOR * 4);
        let elsewhere = LastCheck::now(blocked_at(6), Some(&third));
        assert_eq!(elsewhere.patience(false), SLEEPS_ON);
    }
}
