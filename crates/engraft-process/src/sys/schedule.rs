//! How soon this thread wants a processor, compared with others that want one at the same moment.
//!
//! Linux 6.12 and later let a thread say how long its turns are (`sched_setattr(2)`, `sched_runtime` of a
//! normal policy). Who asks for short ones gets no more than before, but sooner. Older kernels take no notice.
//!
//! To ask for long ones while nobody waits for us, so that the program's threads wake as early as if we were not
//! there, was tried: next to hundreds of threads that want a processor, whoever does that gets none for seconds.
#![expect(
    unsafe_code,
    reason = "the only place that asks the kernel for another way of being scheduled"
)]

use std::mem::MaybeUninit;
use std::time::Duration;

/// The shortest turns that the kernel grants.
const HURRIED: Duration = Duration::from_micros(100);

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
        if let Some(before) = self.before {
            take_turns(before);
        }
    }
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
    use super::*;

    #[test]
    fn hurry_ends() {
        // A thread of its own: what is tested stays with it.
        let thread = std::thread::spawn(|| {
            let before = attributes().unwrap().sched_runtime;
            let hurry = Hurry::begin();
            let hurried = attributes().unwrap().sched_runtime;
            drop(hurry);
            (before, hurried, attributes().unwrap().sched_runtime)
        });
        let (before, hurried, after) = thread.join().unwrap();
        assert_eq!(before, after);
        // A kernel before 6.12 says 0.
        if before != 0 {
            assert_eq!(hurried, 100_000);
        }
    }
}
