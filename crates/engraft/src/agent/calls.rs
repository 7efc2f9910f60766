//! System calls in the target, in a thread that is stopped or borrowed.

use std::time::Duration;

use engraft_process::{Process, StoppedThread};

use crate::backoff::Backoff;
use crate::error::Error;

/// How long one stop may take before it is given up.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Where system calls are made in the target.
pub(crate) enum Calls<'a, 't> {
    /// In a thread that stands still anyway.
    In(&'a mut StoppedThread<'t>),
    /// In a thread that is borrowed for each call anew, so that none stands still for long.
    Borrowing {
        process: &'a Process,
        backoff: &'a Backoff,
    },
}

impl<'a, 't> Calls<'a, 't> {
    /// In borrowed threads.
    pub(crate) fn borrowing(process: &'a Process, backoff: &'a Backoff) -> Self {
        Self::Borrowing { process, backoff }
    }

    pub(crate) fn process(&self) -> &Process {
        match self {
            Self::In(thread) => thread.process(),
            Self::Borrowing { process, .. } => process,
        }
    }

    /// Does several things in one thread.
    pub(crate) fn in_thread<R>(
        &mut self,
        work: impl FnOnce(&mut StoppedThread<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        match self {
            Self::In(thread) => work(thread),
            Self::Borrowing { process, backoff } => with_thread(process, backoff, work),
        }
    }

    pub(crate) fn system_call(&mut self, number: i64, arguments: [u64; 6]) -> Result<u64, Error> {
        self.in_thread(|thread| Ok(thread.system_call(number, arguments)?))
    }
}

/// Borrows one thread; all others go on.
pub(crate) fn with_thread<R>(
    process: &Process,
    backoff: &Backoff,
    work: impl FnOnce(&mut StoppedThread<'_>) -> Result<R, Error>,
) -> Result<R, Error> {
    let pid = process.pid();
    let mut borrowed = again_if_slow(backoff, || Ok(process.borrow_thread(STOP_TIMEOUT)?))?;
    let mut thread = borrowed.thread().ok_or(Error::NoThread { pid })?;
    let result = work(&mut thread);
    borrowed.detach()?;
    result
}
/// Stops something, once more if threads did not stop in time: everything has been let go then.
pub(crate) fn again_if_slow<T>(
    backoff: &Backoff,
    mut stop: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    loop {
        match stop() {
            Err(error) if error.is_slow_stop() && backoff.wait().is_ok() => {}
            stopped => return stopped,
        }
    }
}
