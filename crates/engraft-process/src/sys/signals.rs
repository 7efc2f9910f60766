//! Signals that must not end this process.
#![expect(
    unsafe_code,
    reason = "the only place that changes what signals do to us, besides the alarm's handler"
)]

use std::sync::Once;

/// Makes a write beyond the limit of a file's size (`ulimit -f`) an error; by default a signal ends
/// the process.
pub(crate) fn ignore_file_size_signal() {
    static ONCE: Once = Once::new();
    // SAFETY: ignoring a signal runs no code of ours.
    ONCE.call_once(|| unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    });
}
