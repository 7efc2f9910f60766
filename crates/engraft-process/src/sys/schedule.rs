//! How soon a thread gets a processor, compared with others that want one at the same moment.
//!
//! Linux 6.12 and later let a thread say how long its turns are (`sched_setattr(2)`, `sched_runtime` of a
//! normal policy). A thread that asks for short ones gets no more than before, but sooner: it goes before all others
//! that wait, and a thread that wakes goes before one whose turns are longer than its own. Older kernels take no notice.
//!
//! Next to hundreds of threads that compute, a fair share of a processor is so small that a command would need minutes
//! for what costs it milliseconds. A command that has waited for long asks to go before all of them (`SCHED_RR`), or at
//! least for a larger share (`sched_nice`), which a privileged one is given. A larger share alone does not help enough:
//! a thread that is owed more than one turn has an earlier deadline than any thread that wakes, and next to 256 threads
//! that compute some twenty are, so each wake-up of a thread with nice -20 took 20 to 90 ms (Linux 6.18).
#![expect(
    unsafe_code,
    reason = "the only place that asks the kernel for another way of being scheduled"
)]

use std::cell::Cell;
use std::fs;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// The shortest turns that the kernel grants.
const HURRIED: Duration = Duration::from_micros(100);

/// The largest share that there is: some 86 times that of a thread that asks for nothing.
const LARGEST_SHARE: i32 = -20;

/// The lowest real-time priority: before all threads that share processors, after all others of a real-time policy.
const LOWEST_PRIORITY: u32 = 1;

/// When this thread has waited for processors for this long in all, it gives way no longer.
const PATIENCE: Duration = Duration::from_millis(20);

/// How often this thread asks the kernel how long it has waited. Asking costs three system calls.
const ASK_EVERY: Duration = Duration::from_millis(2);

/// This thread, where a thread is meant.
const THIS_THREAD: i32 = 0;

thread_local! {
    /// How this thread gives way; nothing if it does not.
    static GIVING_WAY: Cell<Option<GivingWay>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct GivingWay {
    /// Until when, in the time that it has waited for processors.
    until: Duration,
    /// It has waited for longer, and gives way no longer.
    is_over: bool,
    /// When it was last found out how long it has waited.
    asked: Instant,
    /// How this thread was scheduled before, where that is known and may be changed.
    usual: Option<Scheduled>,
}

/// What a thread has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scheduled {
    /// The policy, `SCHED_OTHER` or the like.
    policy: u32,
    /// The priority under a real-time policy; zero under others.
    priority: u32,
    /// How long its turns are; zero where the kernel does not say (before Linux 6.12).
    turns: Duration,
    nice: i32,
}

impl Scheduled {
    /// Before all threads that share processors.
    fn before_all(self) -> Self {
        Self {
            policy: libc::SCHED_RR.cast_unsigned(),
            priority: LOWEST_PRIORITY,
            ..self
        }
    }
}

/// While it lives, this thread, for which nobody waits, lets threads that wake go first: those of a program that is
/// patched wake as early as if we were not there. Not where too many compute: then it goes first.
#[must_use]
#[derive(Debug)]
pub struct GiveWay {
    is_first: bool,
    /// It is about the thread that has begun it.
    _this_thread: PhantomData<*const ()>,
}

impl GiveWay {
    /// Begins to give way, until the first of those that live at a time ends. Each begins with new patience.
    pub fn begin() -> Self {
        Self::begin_after(waited())
    }

    /// The same for a thread that was made for the command alone. What it has waited since its birth counts: next to
    /// hundreds of threads that compute, the start of a program alone takes a second.
    pub fn begin_at_birth() -> Self {
        let way = Self::begin_after(Duration::ZERO);
        give_way_no_longer_than_patience();
        way
    }

    fn begin_after(waited: Duration) -> Self {
        let before = GIVING_WAY.get();
        let usual = before.map_or_else(|| scheduled(THIS_THREAD), |before| before.usual);
        GIVING_WAY.set(Some(GivingWay {
            until: waited + PATIENCE,
            is_over: false,
            asked: Instant::now(),
            usual,
        }));
        if let Some(usual) = usual.filter(|usual| !usual.turns.is_zero()) {
            // Longer than anybody's who asks for nothing; no longer than it must be for that.
            let turns = usual.turns + usual.turns / 8;
            schedule(THIS_THREAD, Scheduled { turns, ..usual });
        }
        Self {
            is_first: before.is_none(),
            _this_thread: PhantomData,
        }
    }
}

impl Drop for GiveWay {
    fn drop(&mut self) {
        if self.is_first
            && let Some(usual) = GIVING_WAY.take().and_then(|it| it.usual)
        {
            schedule(THIS_THREAD, usual);
        }
    }
}

/// Lets this thread go first from now on, if it has given way for long enough. Short turns alone bring a thread no
/// further that has used its share up. A command that goes before all others takes no more than it needs: it sleeps
/// whenever it waits for something.
pub(crate) fn give_way_no_longer_than_patience() {
    let Some(giving_way) = GIVING_WAY.get() else {
        return;
    };
    if giving_way.is_over {
        return;
    }
    let is_over = waited() >= giving_way.until;
    GIVING_WAY.set(Some(GivingWay {
        is_over,
        asked: Instant::now(),
        ..giving_way
    }));
    if !is_over {
        return;
    }
    if let Some(usual) = giving_way.usual {
        let turns = HURRIED;
        let hurried = Scheduled { turns, ..usual };
        let nice = LARGEST_SHARE;
        // Not everybody may go before the others, or have a larger share.
        let _ = schedule(THIS_THREAD, usual.before_all())
            || schedule(THIS_THREAD, Scheduled { nice, ..hurried })
            || schedule(THIS_THREAD, hurried);
    }
}

/// The same where it is called often: the kernel is asked now and then.
pub(crate) fn notice_waiting() {
    let may_ask = |it: GivingWay| !it.is_over && it.asked.elapsed() >= ASK_EVERY;
    if GIVING_WAY.get().is_some_and(may_ask) {
        give_way_no_longer_than_patience();
    }
}

/// While this value lives, one thread has short turns. That is this thread, while the target's threads stand still, or
/// the thread that makes a call for us. If we die, a target's thread keeps the short turns: its share of a processor
/// stays the same, in smaller pieces.
#[derive(Debug)]
pub(crate) struct Hurry {
    tid: i32,
    /// How long its turns were, if they were changed.
    before: Option<Duration>,
}

impl Hurry {
    pub(crate) fn begin() -> Self {
        give_way_no_longer_than_patience();
        Self::of(THIS_THREAD)
    }

    /// Of another thread.
    pub(crate) fn of(tid: i32) -> Self {
        let before = scheduled(tid).filter(|before| {
            let turns = HURRIED;
            before.turns > turns && schedule(tid, Scheduled { turns, ..*before })
        });
        Self {
            tid,
            before: before.map(|before| before.turns),
        }
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        if self.tid == THIS_THREAD {
            give_way_no_longer_than_patience();
            // A thread that asks for longer turns waits until everybody else has had one.
            if GIVING_WAY.get().is_some_and(|it| it.is_over) {
                return;
            }
        }
        // A target's thread may have ended, and its number may belong to another process's thread by now. So only turns
        // that are still the short ones are changed, and nothing else.
        let now = scheduled(self.tid).filter(|now| now.turns == HURRIED);
        if let (Some(turns), Some(now)) = (self.before, now) {
            schedule(self.tid, Scheduled { turns, ..now });
        }
    }
}

/// For how long this thread has waited for processors; nothing where the kernel does not say (`SCHED_INFO`).
fn waited() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    // Time on a processor, time of waiting for one, number of turns.
    let waited = text.split_ascii_whitespace().nth(1);
    let waited = waited.and_then(|it| it.parse().ok());
    Duration::from_nanos(waited.unwrap_or(0))
}

/// How a thread is scheduled; `None` if its policy is none for which turns and shares mean what they mean here, or it
/// cannot be asked.
fn scheduled(tid: i32) -> Option<Scheduled> {
    let attributes = attributes(tid)?;
    let policy = attributes.sched_policy.cast_signed();
    let shares = [libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&policy);
    shares.then(|| Scheduled {
        policy: attributes.sched_policy,
        priority: attributes.sched_priority,
        turns: Duration::from_nanos(attributes.sched_runtime),
        nice: attributes.sched_nice,
    })
}

/// Whether a thread is now scheduled like this. Nothing is lost where this fails, so nothing is said.
fn schedule(tid: i32, scheduled: Scheduled) -> bool {
    // The flags are kept.
    let Some(mut attributes) = attributes(tid) else {
        return false;
    };
    attributes.sched_policy = scheduled.policy;
    attributes.sched_priority = scheduled.priority;
    attributes.sched_runtime = u64::try_from(scheduled.turns.as_nanos()).unwrap_or(u64::MAX);
    attributes.sched_nice = scheduled.nice;
    // SAFETY: the structure is our own and as long as it says.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const attributes, 0) };
    result == 0
}

/// The attributes of a thread.
fn attributes(tid: i32) -> Option<libc::sched_attr> {
    const LENGTH: usize = size_of::<libc::sched_attr>();
    let mut attributes = MaybeUninit::<libc::sched_attr>::zeroed();
    let pointer = attributes.as_mut_ptr();
    // SAFETY: the kernel writes at most `LENGTH` bytes to our own structure.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, tid, pointer, LENGTH, 0) };
    // SAFETY: every field is a number, for which any bytes are a value.
    (result == 0).then(|| unsafe { attributes.assume_init() })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;

    fn turns() -> Duration {
        scheduled(THIS_THREAD).unwrap().turns
    }

    fn is_before_all() -> bool {
        let attributes = attributes(THIS_THREAD).unwrap();
        attributes.sched_policy.cast_signed() == libc::SCHED_RR
    }

    fn has_the_largest_share() -> bool {
        attributes(THIS_THREAD).unwrap().sched_nice == LARGEST_SHARE
    }

    fn is_patient() -> bool {
        GIVING_WAY.get().is_some_and(|it| waited() < it.until)
    }

    /// In a thread of its own: what is tested stays with it. A kernel before 6.12 says 0 always.
    fn in_a_thread(test: impl FnOnce(Duration) + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| test(turns()));
        });
    }

    #[test]
    fn hurry_ends() {
        in_a_thread(|usual| {
            let hurry = Hurry::begin();
            assert!(turns() == HURRIED || usual.is_zero());
            drop(hurry);
            assert_eq!(turns(), usual);
        });
    }

    #[test]
    fn another_thread_hurries() {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                tell.send(rustix::thread::gettid().as_raw_nonzero().get())
                    .unwrap();
                ended.recv().unwrap_err();
            });
            let _end = end;
            let tid = told.recv().unwrap();
            let before = scheduled(tid).unwrap();
            let hurry = Hurry::of(tid);
            let meanwhile = scheduled(tid).unwrap();
            assert!(meanwhile.turns == HURRIED || before.turns.is_zero());
            assert_eq!(meanwhile.nice, before.nice);
            drop(hurry);
            assert_eq!(scheduled(tid).unwrap(), before);
            // What it has asked for meanwhile stays.
            let hurry = Hurry::of(tid);
            let asked = Scheduled {
                turns: before.turns * 2,
                nice: before.nice + 1,
                ..before
            };
            assert!(schedule(tid, asked));
            drop(hurry);
            assert_eq!(scheduled(tid).unwrap(), asked);
        });
    }

    #[test]
    fn giving_way_ends() {
        in_a_thread(|usual| {
            let way = GiveWay::begin();
            assert!(turns() > usual || usual.is_zero());
            drop(GiveWay::begin());
            assert!(turns() > usual || usual.is_zero());
            drop(Hurry::begin());
            assert!(turns() > usual || usual.is_zero() || !is_patient());
            drop(way);
            assert_eq!(turns(), usual);
        });
    }

    #[test]
    fn patience_ends() {
        /// Has other threads end, also when the test fails.
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                // ORDERING: nothing else is told by it.
                self.0.store(true, Ordering::Relaxed);
            }
        }
        in_a_thread(|usual| {
            // As many threads as it takes to have to wait.
            let done = AtomicBool::new(false);
            // ORDERING: as above.
            let goes_on = || !done.load(Ordering::Relaxed);
            std::thread::scope(|scope| {
                let _done = Done(&done);
                let processors = std::thread::available_parallelism().unwrap().get();
                for _ in 0..4 * processors {
                    scope.spawn(|| {
                        while goes_on() {
                            std::hint::spin_loop();
                        }
                    });
                }
                let way = GiveWay::begin();
                let started = Instant::now();
                while is_patient() && started.elapsed() < Duration::from_secs(10) {
                    std::hint::spin_loop();
                }
                // A kernel that does not say how long a thread has waited says so of none.
                if !is_patient() {
                    drop(Hurry::begin());
                    let root = rustix::process::geteuid().is_root();
                    assert!(is_before_all() || has_the_largest_share() || !root);
                    assert!(is_before_all() || turns() == HURRIED || usual.is_zero());
                }
                drop(way);
                assert_eq!(turns(), usual);
                assert!(!is_before_all() && !has_the_largest_share());
            });
        });
    }
}
