//! An alarm clock for blocking waits.
//!
//! `waitpid` has no timeout, and no file descriptor becomes readable when a tracee stops. Polling
//! would either be late or take the processor from the awaited tracee. So a wait blocks, and a
//! timer of this thread alone makes it return `EINTR` now and then. Then the caller can look at its
//! deadline and at other tracees.
#![expect(
    unsafe_code,
    reason = "the only place that creates a POSIX timer and the handler of its signal"
)]

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Once;
use std::time::Duration;

use rustix::io::Errno;

/// How often the alarm rings. The timer repeats, because a signal may arrive just before the wait
/// blocks.
const TICK: Duration = Duration::from_millis(5);

/// While it lives, blocking system calls of this thread return `EINTR` at least every few
/// milliseconds.
pub(crate) struct Alarm {
    timer: libc::timer_t,
}

/// The signal of the alarm. The libraries that a controller links use no real-time signals, and the
/// last one is the least likely to be in use.
fn signal() -> libc::c_int {
    libc::SIGRTMAX()
}

extern "C" fn nothing(_: libc::c_int) {}

fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler = nothing as extern "C" fn(libc::c_int);
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        let pointer = action.as_mut_ptr();
        // SAFETY: `pointer` is to our own zeroed sigaction. No SA_RESTART: the point is EINTR.
        unsafe { (*pointer).sa_sigaction = handler as usize };
        // SAFETY: all fields are valid when zero, an empty mask and no flags included; the handler
        // does nothing, so it is async-signal-safe. Failure is impossible for a valid signal.
        unsafe { libc::sigaction(signal(), pointer, ptr::null_mut()) };
    });
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn timer_for_this_thread() -> Result<libc::timer_t, Errno> {
    let mut event = MaybeUninit::<libc::sigevent>::zeroed();
    let pointer = event.as_mut_ptr();
    // SAFETY: our own zeroed sigevent, for which every field is a plain number.
    unsafe { (*pointer).sigev_notify = libc::SIGEV_THREAD_ID };
    // SAFETY: as above.
    unsafe { (*pointer).sigev_signo = signal() };
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    // SAFETY: as above.
    unsafe { (*pointer).sigev_notify_thread_id = thread };
    let mut timer = ptr::null_mut();
    // SAFETY: `pointer` is to an initialised sigevent, `timer` to our own variable.
    let result = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, pointer, &raw mut timer) };
    check(result).map(|()| timer)
}

impl Alarm {
    /// Starts ticking.
    pub(crate) fn start() -> Result<Self, Errno> {
        install_handler();
        let alarm = Self {
            timer: timer_for_this_thread()?,
        };
        let tick = libc::timespec {
            tv_sec: 0,
            tv_nsec: TICK.subsec_nanos().into(),
        };
        let schedule = libc::itimerspec {
            it_interval: tick,
            it_value: tick,
        };
        // SAFETY: the timer exists until `alarm` is dropped; `schedule` is ours.
        let result =
            unsafe { libc::timer_settime(alarm.timer, 0, &raw const schedule, ptr::null_mut()) };
        check(result).map(|()| alarm)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: created by `start`, deleted only here. It cannot fail for an existing timer.
        unsafe { libc::timer_delete(self.timer) };
    }
}
