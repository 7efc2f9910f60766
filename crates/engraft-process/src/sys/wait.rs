//! Waiting for what happens to one traced thread.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};

use crate::sys::ptrace::EVENT_STOP;

/// How long an event that is expected at once is looked for before we fall asleep over it.
pub(crate) const AT_ONCE: Duration = Duration::from_micros(30);

/// However much there is to see.
const LONGEST_LOOK: Duration = Duration::from_millis(10);

/// What `wait` said about a tracee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It has ended.
    Ended,
    /// A stop that `PTRACE_INTERRUPT`, birth or a group stop caused; the latter with its signal.
    Stop { group: bool },
    /// At the entry or exit of a system call.
    SystemCall,
    /// It has started another thread or process and stands still meanwhile.
    Clone,
    /// It runs another program.
    Exec,
    /// It is about to receive a signal.
    Signal(i32),
}

/// What came of waiting once.
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
/// latest. For as long as `patience` lasts we do not fall asleep over it.
///
/// A thread on another processor stops, or comes to its next system call, within microseconds. Falling asleep and
/// being woken takes longer than that, above all where the processor falls asleep too. A thread that
/// has to wait for our own processor is kept from it no longer than a change of threads takes.
///
/// Meanwhile `look` is done over and over; it may say for how long it wants that to go on.
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

/// Waits for the next event of one thread. `block` waits until the alarm rings at the latest.
pub(crate) fn wait(tid: i32, block: bool) -> Result<Waited, Errno> {
    // __WALL: also threads whose end sends no SIGCHLD, which all but the first are.
    let mut options = WaitOptions::from_bits_retain(libc::__WALL as u32);
    if !block {
        options |= WaitOptions::NOHANG;
    }
    match waitpid(Pid::from_raw(tid), options) {
        Ok(Some((_, status))) => Ok(Waited::Event(decode(status.as_raw()))),
        Ok(None) | Err(Errno::INTR) => Ok(Waited::Nothing),
        // Not our tracee any more: it has vanished in the exec of another thread.
        Err(Errno::CHILD) => Ok(Waited::Event(Event::Ended)),
        Err(error) => Err(error),
    }
}

/// Waits until something has happened to any thread that this one traces, and leaves it to be asked for; until the
/// alarm rings at the latest. Whether anything has happened, if only to a child that this thread has started.
pub(crate) fn wait_for_any() -> Result<bool, Errno> {
    // What concerns other threads of ours, or their tracees, is none of our business.
    let options = WaitIdOptions::from_bits_retain((libc::__WALL | libc::__WNOTHREAD) as u32);
    let options = options | WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
    match waitid(WaitId::All, options) {
        Ok(_) => Ok(true),
        Err(Errno::INTR | Errno::CHILD) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the end of a thread that our process traces, if it has ended, and nothing else.
pub(crate) fn reap(tid: i32) {
    let options = WaitIdOptions::from_bits_retain(libc::__WALL as u32);
    let options = options | WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    if let Some(pid) = Pid::from_raw(tid)
        && let Err(error) = waitid(WaitId::Pid(pid), options)
    {
        tracing::debug!(tid, %error, "nobody to wait for");
    }
}
