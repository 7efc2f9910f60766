//! Waiting for events of traced threads.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, waitid, waitpid};

use crate::sys::ptrace::EVENT_STOP;

/// How long we poll for an event that is expected at once, before a blocking wait.
pub(crate) const AT_ONCE: Duration = Duration::from_micros(30);

/// The longest poll, whatever a look finds.
const LONGEST_LOOK: Duration = Duration::from_millis(10);

/// What `wait` reports of a tracee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The thread has ended.
    Ended,
    /// A stop for `PTRACE_INTERRUPT`, at the thread's birth, or, with `group`, a group stop.
    Stop { group: bool },
    /// At the entry or exit of a system call.
    SystemCall,
    /// The thread has started another thread or process, and is stopped.
    Clone,
    /// The thread runs another program.
    Exec,
    /// The thread is about to receive a signal.
    Signal(i32),
}

/// The result of one wait.
pub(crate) enum Waited {
    Event(Event),
    /// Nothing has happened, or the alarm has rung.
    Nothing,
}

fn decode(status: i32) -> Event {
    if status & 0xff != 0x7f {
        return Event::Ended;
    }
    let signal = (status >> 8) & 0xff;
    match status >> 16 {
        EVENT_STOP => Event::Stop {
            group: signal != libc::SIGTRAP,
        },
        libc::PTRACE_EVENT_EXEC => Event::Exec,
        0 if signal == libc::SIGTRAP | 0x80 => Event::SystemCall,
        0 => Event::Signal(signal),
        _ => Event::Clone,
    }
}

/// Waits for the next event of one thread, which is expected at once, until the alarm rings at the
/// latest. Polls for `patience` before it blocks.
///
/// A thread on another processor stops, or reaches its next system call, within microseconds. To
/// block and to be woken takes longer than that, above all where the processor falls asleep too. A
/// thread that waits for our own processor is delayed by about one change of threads.
///
/// While we poll, `look` is called again and again; it may return for how much longer to poll.
pub(crate) fn wait_soon(
    tid: i32,
    patience: Duration,
    mut look: impl FnMut() -> Option<Duration>,
) -> Result<Waited, Errno> {
    let start = Instant::now();
    let mut until = start + patience;
    while Instant::now() < until.min(start + LONGEST_LOOK) {
        if let Waited::Event(event) = wait(tid, false)? {
            return Ok(Waited::Event(event));
        }
        if let Some(longer) = look() {
            until = Instant::now() + longer;
        }
        std::hint::spin_loop();
    }
    wait(tid, true)
}

/// The next event of one thread. With `block`, waits for one until the alarm rings at the latest.
pub(crate) fn wait(tid: i32, block: bool) -> Result<Waited, Errno> {
    // __WALL: also threads whose end sends no SIGCHLD: all but the first one.
    let mut options = WaitOptions::from_bits_retain(libc::__WALL as u32);
    if !block {
        options |= WaitOptions::NOHANG;
    }
    match waitpid(Pid::from_raw(tid), options) {
        Ok(Some((_, status))) => Ok(Waited::Event(decode(status.as_raw()))),
        Ok(None) | Err(Errno::INTR) => Ok(Waited::Nothing),
        // Not our tracee any more: the exec of another thread has ended it.
        Err(Errno::CHILD) => Ok(Waited::Event(Event::Ended)),
        Err(error) => Err(error),
    }
}

/// Waits until there is an event of any thread that this one traces, until the alarm rings at the
/// latest, and leaves the event to be fetched. Returns whether there is one; it may be the end of a
/// child that this thread has started.
pub(crate) fn wait_for_any() -> Result<bool, Errno> {
    // __WNOTHREAD: not the tracees and children of other threads of ours.
    let options = WaitIdOptions::from_bits_retain((libc::__WALL | libc::__WNOTHREAD) as u32);
    let options = options | WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
    match waitid(WaitId::All, options) {
        Ok(_) => Ok(true),
        Err(Errno::INTR | Errno::CHILD) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reaps a thread that our process traces, if it has ended. Leaves all other events.
pub(crate) fn reap(tid: i32) {
    let options = WaitIdOptions::from_bits_retain(libc::__WALL as u32);
    let options = options | WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let Some(pid) = Pid::from_raw(tid) else {
        return;
    };
    // A wait for ends alone takes the stop of a traced thread, too (`wait_task_stopped`,
    // kernel/exit.c). The tracer would wait for that stop in vain. So we look first, and take only
    // an end.
    let has_ended = |status: WaitIdStatus| status.exited() || status.killed() || status.dumped();
    let reaped = match waitid(WaitId::Pid(pid), options | WaitIdOptions::NOWAIT) {
        Ok(Some(status)) if has_ended(status) => waitid(WaitId::Pid(pid), options),
        looked => looked,
    };
    if let Err(error) = reaped {
        tracing::debug!(tid, %error, "no such thread to reap");
    }
}
