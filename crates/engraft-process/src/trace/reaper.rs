//! Attaching to threads of a process that may run another program at that moment.
//!
//! An exec ends all other threads, and waits until those that are traced have been waited for. Meanwhile nobody can
//! attach to a thread of the process: the kernel keeps whoever tries waiting (`ptrace(2)`, `cred_guard_mutex`), and a
//! signal does not get it out. So a tracer that attaches to one more would wait for the exec, and the exec for it.
//! Another thread of ours can wait for its tracees, too.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::sys::wait::reap;

/// Attaching to hundreds of threads takes less. When it takes longer, it is looked for those that have ended.
const LONG: Duration = Duration::from_millis(20);

/// The threads that are attached while others are yet to be.
pub(crate) struct Attached(Mutex<BTreeSet<i32>>);

impl Attached {
    pub(crate) fn add(&self, tid: i32) {
        if let Ok(mut tids) = self.0.lock() {
            tids.insert(tid);
        }
    }

    fn reap(&self) {
        if let Ok(tids) = self.0.lock() {
            tids.iter().for_each(|tid| reap(*tid));
        }
    }
}

/// Lets `attach` attach to threads, which it has to [`add`](Attached::add), while those that are `attached` already
/// are waited for if they end. That they have ended is seen later: there is nobody to wait for any more.
pub(crate) fn attaching<R>(
    attached: impl IntoIterator<Item = i32>,
    attach: impl FnOnce(&Attached) -> R,
) -> R {
    let attached = Attached(Mutex::new(attached.into_iter().collect()));
    thread::scope(|scope| {
        let (done, is_done) = channel::<()>();
        let reaper = thread::Builder::new().name("reaper".to_owned());
        let attached = &attached;
        let reap = move || {
            while let Err(RecvTimeoutError::Timeout) = is_done.recv_timeout(LONG) {
                attached.reap();
            }
        };
        if let Err(error) = reaper.spawn_scoped(scope, reap) {
            tracing::debug!(%error, "attaching without help");
        }
        let result = attach(attached);
        drop(done);
        result
    })
}
