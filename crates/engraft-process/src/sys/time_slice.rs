//! The time slice of a thread: how soon it gets a processor, compared with others that want one at
//! the same moment.
//!
//! Since Linux 6.12 a thread can say how long its time slice is (`sched_setattr(2)`,
//! `sched_runtime` of a normal policy). A short slice does not give it more time, but gives it
//! sooner: the thread goes before all others that wait, and a thread that wakes goes before one
//! whose slice is longer than its own. Older kernels ignore the request.
//!
//! Next to hundreds of threads that compute, a fair share of a processor is so small that a command
//! would need minutes for milliseconds of work. A command that has waited long asks to go before
//! all of them (`SCHED_RR`), or at least for a larger share (`sched_nice`); the kernel grants that
//! to a privileged one. A larger share alone does not help enough: a thread that is owed more than
//! one slice has an earlier deadline than any thread that wakes, and next to 256 threads that
//! compute some twenty are, so each wake-up of a thread with nice -20 took 20 to 90 ms (Linux
//! 6.18).
#![expect(
    unsafe_code,
    reason = "the only place that changes how a thread is scheduled"
)]

use std::cell::Cell;
use std::fs;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// The shortest slice that the kernel grants.
const SHORT: Duration = Duration::from_micros(100);

/// The largest share that there is: some 86 times that of a thread that asks for nothing.
const LARGEST_SHARE: i32 = -20;

/// The lowest real-time priority: before all threads that share processors, after all others of a
/// real-time policy.
const LOWEST_PRIORITY: u32 = 1;

/// A long slice ends when this thread has waited for processors for this long in all.
const PATIENCE: Duration = Duration::from_millis(20);

/// How often this thread asks the kernel how long it has waited, which costs three system calls.
const ASK_EVERY: Duration = Duration::from_millis(2);

/// The number that means this thread.
const THIS_THREAD: i32 = 0;

thread_local! {
    /// The long slice of this thread, if it has one.
    static LONG_SLICE: Cell<Option<LongSliceState>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct LongSliceState {
    /// How long the thread may have waited for processors, in all, before the slice ends.
    until: Duration,
    /// The thread has waited longer, and the slice has ended.
    is_over: bool,
    /// When the kernel was last asked how long the thread has waited.
    asked: Instant,
    /// How the thread was scheduled before, if that is known and may be changed.
    usual: Option<Scheduled>,
}

/// What a thread has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scheduled {
    /// The policy, `SCHED_OTHER` or the like.
    policy: u32,
    /// The priority under a real-time policy; zero under others.
    priority: u32,
    /// The length of its time slice; zero where the kernel does not say (before Linux 6.12).
    slice: Duration,
    nice: i32,
}

impl Scheduled {
    /// Scheduled before all threads of a normal policy.
    fn before_all(self) -> Self {
        Self {
            policy: libc::SCHED_RR.cast_unsigned(),
            priority: LOWEST_PRIORITY,
            ..self
        }
    }
}

/// While this value lives, this thread of ours, for which no other thread waits, has a long time
/// slice: threads of the program that wake then go first, as if we were not there. Where too many
/// threads compute, the slice ends after a while and this thread goes first, or a command would
/// take minutes.
#[must_use]
#[derive(Debug)]
pub struct LongSlice {
    is_first: bool,
    /// The value is about the thread that has begun it.
    _this_thread: PhantomData<*const ()>,
}

impl LongSlice {
    /// Begins a long slice. Of several values that live at a time, the first one ends it; each
    /// begins anew to count how long the thread waits.
    pub fn begin() -> Self {
        Self::begin_after(time_waited())
    }

    /// Begins a long slice of a thread that was made for the command alone. The time that it has
    /// waited since its birth counts: next to hundreds of threads that compute, the start of a
    /// program alone takes a second.
    pub fn begin_at_birth() -> Self {
        let long = Self::begin_after(Duration::ZERO);
        end_long_slice_when_due();
        long
    }

    fn begin_after(waited: Duration) -> Self {
        let before = LONG_SLICE.get();
        let usual = before.map_or_else(|| scheduled(THIS_THREAD), |before| before.usual);
        LONG_SLICE.set(Some(LongSliceState {
            until: waited + PATIENCE,
            is_over: false,
            asked: Instant::now(),
            usual,
        }));
        if let Some(usual) = usual.filter(|usual| !usual.slice.is_zero()) {
            // Longer than that of a thread that asks for nothing, and no longer than it must be for
            // that.
            let slice = usual.slice + usual.slice / 8;
            schedule(THIS_THREAD, Scheduled { slice, ..usual });
        }
        Self {
            is_first: before.is_none(),
            _this_thread: PhantomData,
        }
    }
}

impl Drop for LongSlice {
    fn drop(&mut self) {
        if self.is_first
            && let Some(usual) = LONG_SLICE.take().and_then(|it| it.usual)
        {
            schedule(THIS_THREAD, usual);
        }
    }
}

/// Ends the long slice of this thread, if the thread has waited long enough: from then on it goes
/// first. A short slice alone would not help a thread that has used up its share. A command that
/// goes before all others takes no more than it needs: it sleeps whenever it waits for something.
pub(crate) fn end_long_slice_when_due() {
    let Some(state) = LONG_SLICE.get() else {
        return;
    };
    if state.is_over {
        return;
    }
    let is_over = time_waited() >= state.until;
    LONG_SLICE.set(Some(LongSliceState {
        is_over,
        asked: Instant::now(),
        ..state
    }));
    if !is_over {
        return;
    }
    if let Some(usual) = state.usual {
        let slice = SHORT;
        let short = Scheduled { slice, ..usual };
        let nice = LARGEST_SHARE;
        // The kernel may refuse either of the first two.
        let _ = schedule(THIS_THREAD, usual.before_all())
            || schedule(THIS_THREAD, Scheduled { nice, ..short })
            || schedule(THIS_THREAD, short);
    }
}

/// Does the same where it is called often: the kernel is asked only now and then.
pub(crate) fn check_long_slice() {
    let may_ask = |it: LongSliceState| !it.is_over && it.asked.elapsed() >= ASK_EVERY;
    if LONG_SLICE.get().is_some_and(may_ask) {
        end_long_slice_when_due();
    }
}

/// While this value lives, one thread has a short time slice: this thread of ours, while threads of
/// the target are stopped, or the thread that makes a call for us. If we die, the target's thread
/// keeps the short slice: its share of a processor stays the same, in smaller pieces.
#[derive(Debug)]
pub(crate) struct ShortSlice {
    tid: i32,
    /// The length of its slice before, if it was changed.
    before: Option<Duration>,
}

impl ShortSlice {
    /// A short slice of this thread.
    pub(crate) fn begin() -> Self {
        end_long_slice_when_due();
        Self::of(THIS_THREAD)
    }

    /// A short slice of another thread.
    pub(crate) fn of(tid: i32) -> Self {
        let before = scheduled(tid).filter(|before| {
            let slice = SHORT;
            before.slice > slice && schedule(tid, Scheduled { slice, ..*before })
        });
        Self {
            tid,
            before: before.map(|before| before.slice),
        }
    }
}

impl Drop for ShortSlice {
    fn drop(&mut self) {
        if self.tid == THIS_THREAD {
            end_long_slice_when_due();
            // A thread that asks for a longer slice waits until all others have had one.
            if LONG_SLICE.get().is_some_and(|it| it.is_over) {
                return;
            }
        }
        // A target's thread may have ended, and its number may belong to another process's thread
        // by now. So a slice is changed only if it is still the short one, and nothing else is
        // changed.
        let now = scheduled(self.tid).filter(|now| now.slice == SHORT);
        if let (Some(slice), Some(now)) = (self.before, now) {
            schedule(self.tid, Scheduled { slice, ..now });
        }
    }
}

/// How long this thread has waited for processors since its birth; zero where the kernel does not
/// say (`SCHED_INFO`).
pub fn time_waited() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    // Time on a processor, time of waiting for one, number of slices.
    let waited = text.split_ascii_whitespace().nth(1);
    let waited = waited.and_then(|it| it.parse().ok());
    Duration::from_nanos(waited.unwrap_or(0))
}

/// How a thread is scheduled; `None` if the kernel does not say, or if the thread's policy gives
/// these numbers another meaning.
fn scheduled(tid: i32) -> Option<Scheduled> {
    let attributes = attributes(tid)?;
    let policy = attributes.sched_policy.cast_signed();
    let shares = [libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&policy);
    shares.then(|| Scheduled {
        policy: attributes.sched_policy,
        priority: attributes.sched_priority,
        slice: Duration::from_nanos(attributes.sched_runtime),
        nice: attributes.sched_nice,
    })
}

/// Changes how a thread is scheduled; says whether it is scheduled like this now. A failure does no
/// harm, so it is not reported.
fn schedule(tid: i32, scheduled: Scheduled) -> bool {
    // The flags are kept.
    let Some(mut attributes) = attributes(tid) else {
        return false;
    };
    attributes.sched_policy = scheduled.policy;
    attributes.sched_priority = scheduled.priority;
    attributes.sched_runtime = u64::try_from(scheduled.slice.as_nanos()).unwrap_or(u64::MAX);
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

    fn slice() -> Duration {
        scheduled(THIS_THREAD).unwrap().slice
    }

    fn is_before_all() -> bool {
        let attributes = attributes(THIS_THREAD).unwrap();
        attributes.sched_policy.cast_signed() == libc::SCHED_RR
    }

    fn has_the_largest_share() -> bool {
        attributes(THIS_THREAD).unwrap().sched_nice == LARGEST_SHARE
    }

    fn is_patient() -> bool {
        LONG_SLICE.get().is_some_and(|it| time_waited() < it.until)
    }

    /// In a thread of its own: what is tested stays with it. A kernel before 6.12 says 0 always.
    fn in_a_thread(test: impl FnOnce(Duration) + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| test(slice()));
        });
    }

    #[test]
    fn a_short_slice_ends() {
        in_a_thread(|usual| {
            let short = ShortSlice::begin();
            assert!(slice() == SHORT || usual.is_zero());
            drop(short);
            assert_eq!(slice(), usual);
        });
    }

    #[test]
    fn another_thread_gets_a_short_slice() {
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
            let short = ShortSlice::of(tid);
            let meanwhile = scheduled(tid).unwrap();
            assert!(meanwhile.slice == SHORT || before.slice.is_zero());
            assert_eq!(meanwhile.nice, before.nice);
            drop(short);
            assert_eq!(scheduled(tid).unwrap(), before);
            // What it has asked for meanwhile stays.
            let short = ShortSlice::of(tid);
            let asked = Scheduled {
                slice: before.slice * 2,
                nice: before.nice + 1,
                ..before
            };
            assert!(schedule(tid, asked));
            drop(short);
            assert_eq!(scheduled(tid).unwrap(), asked);
        });
    }

    #[test]
    fn a_long_slice_ends() {
        in_a_thread(|usual| {
            let long = LongSlice::begin();
            assert!(slice() > usual || usual.is_zero());
            drop(LongSlice::begin());
            assert!(slice() > usual || usual.is_zero());
            drop(ShortSlice::begin());
            assert!(slice() > usual || usual.is_zero() || !is_patient());
            drop(long);
            assert_eq!(slice(), usual);
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
                let long = LongSlice::begin();
                let started = Instant::now();
                while is_patient() && started.elapsed() < Duration::from_secs(10) {
                    std::hint::spin_loop();
                }
                // A kernel that does not say how long a thread has waited says so of none.
                if !is_patient() {
                    drop(ShortSlice::begin());
                    let root = rustix::process::geteuid().is_root();
                    assert!(is_before_all() || has_the_largest_share() || !root);
                    assert!(is_before_all() || slice() == SHORT || usual.is_zero());
                }
                drop(long);
                assert_eq!(slice(), usual);
                assert!(!is_before_all() && !has_the_largest_share());
            });
        });
    }
}
