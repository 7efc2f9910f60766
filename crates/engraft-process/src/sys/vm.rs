//! The gateway to `process_vm_readv` and `process_vm_writev`.
#![expect(
    unsafe_code,
    reason = "the only place that hands iovecs of another process to the kernel"
)]

use rustix::io::Errno;

use crate::sys::address::TargetAddress;

/// The most ranges the kernel takes in one call (`UIO_MAXIOV`).
pub(crate) const MAX_RANGES: usize = 1024;

fn remote(address: TargetAddress, length: usize) -> libc::iovec {
    // The kernel treats this pointer as a number in the other process; we never follow it.
    libc::iovec {
        iov_base: address.get() as usize as *mut libc::c_void,
        iov_len: length,
    }
}

fn count(result: libc::ssize_t) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| {
        let error = std::io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}

/// Reads from the thread's address space into the buffers, in order, at most [`MAX_RANGES`] of
/// them. The result is the number of bytes read before the first one that could not be.
pub(crate) fn read(tid: i32, ranges: &mut [(TargetAddress, &mut [u8])]) -> Result<usize, Errno> {
    let mut local = Vec::with_capacity(ranges.len());
    let mut distant = Vec::with_capacity(ranges.len());
    for (address, buffer) in ranges.iter_mut() {
        distant.push(remote(*address, buffer.len()));
        local.push(libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        });
    }
    let length = local.len() as libc::c_ulong;
    // SAFETY: every local iovec names a distinct live buffer that we hold exclusively for the call,
    // and both arrays have `length` entries. The remote side can only be read by this call.
    let result =
        unsafe { libc::process_vm_readv(tid, local.as_ptr(), length, distant.as_ptr(), length, 0) };
    count(result)
}

/// Writes the bytes into the thread's address space. The result is the number of bytes written
/// before the first one that could not be.
pub(crate) fn write(tid: i32, address: TargetAddress, bytes: &[u8]) -> Result<usize, Errno> {
    let local = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let distant = remote(address, bytes.len());
    // SAFETY: the local iovec names `bytes`, which the kernel only reads; the remote one is another
    // address space (a process never patches itself through this crate: `Process::open` refuses).
    let result =
        unsafe { libc::process_vm_writev(tid, &raw const local, 1, &raw const distant, 1, 0) };
    count(result)
}
