//! Requests of a called function to us, which we serve while other threads are stopped.
//!
//! How a function makes a request is in [`engraft_machine::request`]. At the entry of that system
//! call, [`StoppedThread::call_serving`](crate::StoppedThread::call_serving) serves the record. The
//! system call itself is harmless, and every seccomp filter under which a loader works allows it.
//! If we have died, the function sees by its record that nothing was done. So an act that needs
//! other threads to be stopped happens while we live, or not at all.

use std::time::Duration;

use engraft_machine::request;

use crate::memory::access::MemoryError;
use crate::sys::address::TargetAddress;
use crate::sys::registers::Registers;
use crate::sys::wait::AT_ONCE;

/// How long we poll for a request of a function that works on another processor, before a blocking
/// wait.
const AT_WORK: Duration = Duration::from_micros(200);

/// How the requests of a called function are served.
pub struct Requests<'f> {
    /// A record that we look at while the function runs. A request there is served without a stop:
    /// resuming a stopped thread costs several times the request itself, and all threads may be
    /// waiting. So a function should wait a moment before it makes the system call. It must make
    /// the system call then: we do not look all the time, and not at all if we have died.
    pub watched: Option<TargetAddress>,
    /// Serves the request in the record at the address, if there is one. If serving fails while the
    /// thread runs, the thread gets no answer and stops for one, and then serving is tried again:
    /// more can be done in a stop (ptrace writes only into stopped threads).
    pub serve: &'f mut dyn FnMut(TargetAddress, Asker) -> Result<Seen, MemoryError>,
}

/// What the requesting thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// It waits for a moment, or has made no request yet.
    Runs,
    /// It has stopped for an answer.
    Stopped,
}

/// What was seen in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A request, which was served.
    Request,
    /// No request, but the function works.
    Work,
    /// Neither.
    Nothing,
}

/// Serves the requests of one call.
pub(crate) struct RequestHandler<'a, 'f> {
    requests: Option<&'a mut Requests<'f>>,
    /// The function has been seen at work.
    at_work: bool,
    /// The function has stopped for a request.
    has_stopped: bool,
    first_failure: Result<(), MemoryError>,
}

impl<'a, 'f> RequestHandler<'a, 'f> {
    pub(crate) fn of(requests: Option<&'a mut Requests<'f>>) -> Self {
        Self {
            requests,
            at_work: false,
            has_stopped: false,
            first_failure: Ok(()),
        }
    }

    /// The first failure of serving a request: later ones may follow from it.
    pub(crate) fn first_failure(self) -> Result<(), MemoryError> {
        self.first_failure
    }

    /// Looks for a request while the function runs, and serves it. Returns how long it is
    /// worthwhile to keep looking, if that has changed.
    pub(crate) fn look(&mut self) -> Option<Duration> {
        let record = self.requests.as_ref()?.watched?;
        let seen = (self.requests.as_mut()?.serve)(record, Asker::Runs);
        if let Err(error) = &seen {
            tracing::debug!(%error, "a request was not served before the thread stopped for it");
        }
        let is_news = match seen.ok()? {
            Seen::Request => true,
            Seen::Work => !std::mem::replace(&mut self.at_work, true),
            Seen::Nothing => false,
        };
        is_news.then_some(AT_WORK)
    }

    /// Serves the request for which the function has stopped. Does nothing if these are the
    /// registers at the entry of another system call.
    pub(crate) fn serve_stopped(&mut self, registers: &Registers) {
        let is_request = registers.orig_rax == libc::SYS_read as u64
            && registers.rdi as u32 == u32::MAX
            && registers.rdx == request::LENGTH;
        let Some(requests) = self.requests.as_mut().filter(|_| is_request) else {
            return;
        };
        self.has_stopped = true;
        let served = (requests.serve)(registers.rsi.into(), Asker::Stopped);
        if self.first_failure.is_ok() {
            self.first_failure = served.map(drop);
        }
    }

    /// How long to poll for an event before a blocking wait.
    pub(crate) fn patience(&self) -> Duration {
        match self.has_stopped && self.is_watched() {
            // The poll was in vain: we share a processor with the function, which does not run
            // while we poll.
            true => Duration::ZERO,
            false => AT_ONCE,
        }
    }

    fn is_watched(&self) -> bool {
        self.requests
            .as_ref()
            .is_some_and(|it| it.watched.is_some())
    }
}
