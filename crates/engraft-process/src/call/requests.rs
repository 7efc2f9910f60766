//! Requests of a called function to its caller, who serves them while it holds other threads.
//!
//! How a function makes one is in [`engraft_machine::request`]. At the entry of that system call,
//! [`StoppedThread::call_serving`](crate::StoppedThread::call_serving) serves the record. The call does
//! nothing else, and every seccomp filter allows it that lets a loader live. If we have died, the
//! function sees by its record that nothing was done. So what must only happen while other threads are
//! stopped happens while we live, or not at all.

use std::time::Duration;

use engraft_machine::request;

use crate::memory::access::MemoryError;
use crate::sys::address::TargetAddress;
use crate::sys::registers::Registers;
use crate::sys::wait::AT_ONCE;

/// How long a function that is at work on another processor is looked after before we fall asleep.
const AT_WORK: Duration = Duration::from_micros(200);

/// How the requests of a called function are served.
pub struct Requests<'f> {
    /// A record that is looked at while the function runs. What is asked for there is served without a stop: to have
    /// a thread go on that stands still takes several times as long as what is asked for, and all threads
    /// may be waiting. So a function does well to wait a moment before it makes the system call. It must make it
    /// then: nobody looks all the time, or at all if we have died.
    pub watched: Option<TargetAddress>,
    /// Serves what is asked for in the record at the address, if anything is. Where the thread runs, a failure is no
    /// answer: it stops if it gets none, and then more can be done (ptrace writes only into threads that stand still).
    pub serve: &'f mut dyn FnMut(TargetAddress, Asker) -> Result<Seen, MemoryError>,
}

/// What the thread that asks is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// It waits for a moment, or has not asked yet.
    Runs,
    /// It has stopped for an answer.
    Stopped,
}

/// What was seen in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A request, and it was served.
    Request,
    /// None, but the function runs.
    Work,
    /// None.
    Nothing,
}

/// Requests that are being served.
pub(crate) struct Service<'a, 'f> {
    requests: Option<&'a mut Requests<'f>>,
    /// The function has been seen at work.
    at_work: bool,
    /// It has stopped for a request.
    has_stopped: bool,
    outcome: Result<(), MemoryError>,
}

impl<'a, 'f> Service<'a, 'f> {
    pub(crate) fn of(requests: Option<&'a mut Requests<'f>>) -> Self {
        Self {
            requests,
            at_work: false,
            has_stopped: false,
            outcome: Ok(()),
        }
    }

    /// Of several failures the first is told: the others may follow from it.
    pub(crate) fn outcome(self) -> Result<(), MemoryError> {
        self.outcome
    }

    /// Looks for a request without a stop, and serves it. For how long it is worthwhile to go on looking, if that is
    /// known better than before.
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

    /// Serves the request that a function has stopped for, if this is the entry of one.
    pub(crate) fn serve_stopped(&mut self, registers: &Registers) {
        let is_request = registers.orig_rax == libc::SYS_read as u64
            && registers.rdi as u32 == u32::MAX
            && registers.rdx == request::LENGTH;
        let Some(requests) = self.requests.as_mut().filter(|_| is_request) else {
            return;
        };
        self.has_stopped = true;
        let served = (requests.serve)(registers.rsi.into(), Asker::Stopped);
        if self.outcome.is_ok() {
            self.outcome = served.map(drop);
        }
    }

    /// For how long an event is to be looked for before we fall asleep over it.
    pub(crate) fn patience(&self) -> Duration {
        match self.has_stopped && self.is_watched() {
            // We had fallen asleep, or share a processor, where nothing happens while we look.
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
