//! The gateway to `get_robust_list`.
#![expect(
    unsafe_code,
    reason = "the only place where the kernel writes a thread's list head"
)]

use rustix::io::Errno;

use crate::sys::address::TargetAddress;

/// The address of a thread's list of robust mutexes; null if the thread has registered none. A new
/// thread has none, whatever made it.
pub(crate) fn head(tid: i32) -> Result<TargetAddress, Errno> {
    let mut head = 0_u64;
    let mut length = 0_usize;
    // SAFETY: the kernel writes one pointer and one size to where these two variables are, which we
    // hold exclusively for the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_robust_list,
            tid,
            &raw mut head,
            &raw mut length,
        )
    };
    if result == 0 {
        return Ok(TargetAddress::new(head));
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
