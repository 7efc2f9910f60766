//! Attaching to threads of a process that may run another program at that moment.
//!
//! An exec ends all other threads of the process, and waits until the traced ones have been reaped.
//! Meanwhile the kernel blocks every attempt to attach to a thread of the process (`ptrace(2)`,
//! `cred_guard_mutex`), and no signal ends the attempt. So a tracer that attaches to one more
//! thread would wait for the exec, and the exec for the tracer. But another thread of ours can reap
//! its tracees.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::sys::wait::reap;

/// Attaching to hundreds of threads takes less. After this time we look for ended threads.
const LONG: Duration = Duration::from_millis(20);

/// The threads that are attached already, while we attach to others.
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

/// Runs `attach`, which attaches to threads and [`add`](Attached::add)s them. Meanwhile threads
/// that are `attached` already are reaped if they end. The tracer notices later that they have
/// ended: a wait for them fails.
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
            tracing::debug!(%error, "attaching without a thread that reaps");
        }
        let result = attach(attached);
        drop(done);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::task::{Task, TaskState};
    use crate::sys::ptrace;
    use crate::sys::wait::{Event, Waited, wait};

    #[test]
    fn a_stop_is_left_to_the_tracer() {
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let tid = child.id().cast_signed();
        let await_state = |wanted| {
            let state = || Task::new(tid, tid).stat().unwrap().unwrap().state;
            while state() != wanted {
                thread::yield_now();
            }
        };
        ptrace::seize(tid, 0).unwrap();
        ptrace::interrupt(tid).unwrap();
        await_state(TaskState::Traced);
        reap(tid);
        let waited = wait(tid, false).unwrap();
        assert!(matches!(
            waited,
            Waited::Event(Event::Stop { group: false })
        ));
        child.kill().unwrap();
        await_state(TaskState::Dead);
        reap(tid);
        child.wait().unwrap_err();
    }
}
