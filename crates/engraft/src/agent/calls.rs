//! System calls in the target, in a thread that is stopped or borrowed.

use std::time::Duration;

use engraft_process::{Process, StoppedThread};

use crate::backoff::Backoff;
use crate::error::Error;

/// How long one stop may take; then every thread is resumed.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The threads of the target that make system calls.
pub(crate) enum Calls<'a, 't> {
    /// A thread that is stopped anyway.
    In(&'a mut StoppedThread<'t>),
    /// A thread that is borrowed for each call anew, so that none is stopped for long.
    Borrowing {
        process: &'a Process,
        backoff: &'a Backoff,
    },
}

impl<'a, 't> Calls<'a, 't> {
    /// Calls in borrowed threads.
    pub(crate) fn borrowing(process: &'a Process, backoff: &'a Backoff) -> Self {
        Self::Borrowing { process, backoff }
    }

    pub(crate) fn process(&self) -> &Process {
        match self {
            Self::In(thread) => thread.process(),
            Self::Borrowing { process, .. } => process,
        }
    }

    /// Calls `work` with one thread, for several calls in a row.
    pub(crate) fn in_thread<R>(
        &mut self,
        work: impl FnOnce(&mut StoppedThread<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        match self {
            Self::In(thread) => work(thread),
            Self::Borrowing { process, backoff } => with_thread(process, backoff, work),
        }
    }

    /// Makes a system call, and returns its result.
    pub(crate) fn system_call(&mut self, number: i64, arguments: [u64; 6]) -> Result<u64, Error> {
        self.in_thread(|thread| Ok(thread.system_call(number, arguments)?))
    }
}

/// Borrows one thread for `work`; all others run on.
pub(crate) fn with_thread<R>(
    process: &Process,
    backoff: &Backoff,
    work: impl FnOnce(&mut StoppedThread<'_>) -> Result<R, Error>,
) -> Result<R, Error> {
    let pid = process.pid();
    let mut borrowed = retry_slow_stop(backoff, || Ok(process.borrow_thread(STOP_TIMEOUT)?))?;
    let mut thread = borrowed.thread().ok_or(Error::NoThread { pid })?;
    let result = work(&mut thread);
    borrowed.detach()?;
    result
}
/// Calls `stop` again until the deadline if threads did not stop in time.
pub(crate) fn retry_slow_stop<T>(
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
