//! The gateway to locks on ranges of files that belong to an open file (`F_OFD_SETLK`).
#![expect(
    unsafe_code,
    reason = "the only place that hands the kernel a description of a lock"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Locks one byte of the file for writing; false if another open file has the lock. The lock ends
/// when the file is closed.
pub(crate) fn try_lock_byte(file: &File, at: i64) -> io::Result<bool> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the kernel reads the description, which lives for the call, and writes nothing for
    // this command.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}
