//! How soon this thread wants a processor, compared with others that want one at the same moment.
//!
//! Linux 6.12 and later let a thread say how long its turns are (`sched_setattr(2)`, `sched_runtime` of a
//! normal policy). Who asks for short ones gets no more than before, but sooner: it goes before all others that
//! wait, and a thread that wakes goes before one whose turns are longer than its own. Older kernels take no notice.
#![expect(
    unsafe_code,
    reason = "the only place that asks the kernel for another way of being scheduled"
)]

use std::cell::Cell;
use std::fs;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::time::Duration;

/// The shortest turns that the kernel grants.
const HURRIED: Duration = Duration::from_micros(100);

/// When this thread has waited for processors for this long in all, it gives way no longer. Next to hundreds of
/// threads that compute, a turn comes round within a second for those who have patience.
const PATIENCE: Duration = Duration::from_millis(20);

thread_local! {
    /// How this thread gives way; nothing if it does not.
    static GIVING_WAY: Cell<Option<GivingWay>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct GivingWay {
    /// Until when, in the time that it has waited for processors.
    until: Duration,
    /// How long turns were before, where the kernel says it.
    usual: Option<Duration>,
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
        let before = GIVING_WAY.get();
        let usual = before.map_or_else(usual_turns, |before| before.usual);
        let until = waited() + PATIENCE;
        GIVING_WAY.set(Some(GivingWay { until, usual }));
        if let Some(usual) = usual {
            // Longer than anybody's who asks for nothing; no longer than it must be for that.
            take_turns(usual + usual / 8);
        }
        Self {
            is_first: before.is_none(),
            _this_thread: PhantomData,
        }
    }
}

impl Drop for GiveWay {
    fn drop(&mut self) {
        if self.is_first {
            let before = GIVING_WAY.take();
            before.and_then(|it| it.usual).and_then(take_turns);
        }
    }
}

/// While it lives, this thread, for which others stand still, goes first.
pub(crate) struct Hurry {
    before: Option<Duration>,
}

impl Hurry {
    pub(crate) fn begin() -> Self {
        Self {
            before: take_turns(HURRIED),
        }
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        // Whoever asks for longer turns waits until everybody else has had one.
        let lost_patience = GIVING_WAY.get().is_some_and(|it| waited() >= it.until);
        if let Some(before) = self.before.filter(|_| !lost_patience) {
            take_turns(before);
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

/// How long this thread's turns are; `None` if that means something else for it, or the kernel does not say.
fn usual_turns() -> Option<Duration> {
    let attributes = attributes()?;
    (attributes.sched_runtime != 0).then(|| Duration::from_nanos(attributes.sched_runtime))
}

/// Asks for turns of this length; how long they were before, if they are others now. Nothing is lost where this
/// fails, so nothing is said.
fn take_turns(length: Duration) -> Option<Duration> {
    let mut attributes = attributes()?;
    // Other policies mean something else by it. The flags are those of the policy, to be kept.
    if ![libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&attributes.sched_policy.cast_signed()) {
        return None;
    }
    let before = Duration::from_nanos(attributes.sched_runtime);
    attributes.sched_runtime = length.as_nanos() as u64;
    // SAFETY: the structure is our own and as long as it says; 0 is this thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    (result == 0).then_some(before)
}

fn attributes() -> Option<libc::sched_attr> {
    const LENGTH: usize = size_of::<libc::sched_attr>();
    let mut attributes = MaybeUninit::<libc::sched_attr>::zeroed();
    let pointer = attributes.as_mut_ptr();
    // SAFETY: the kernel writes at most `LENGTH` bytes to our own structure; 0 is this thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, pointer, LENGTH, 0) };
    // SAFETY: every field is a number, for which any bytes are a value.
    (result == 0).then(|| unsafe { attributes.assume_init() })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;

    fn turns() -> Duration {
        Duration::from_nanos(attributes().unwrap().sched_runtime)
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
                    assert!(turns() == HURRIED || usual.is_zero());
                }
                drop(way);
                assert_eq!(turns(), usual);
            });
        });
    }
}
