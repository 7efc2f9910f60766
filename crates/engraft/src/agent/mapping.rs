//! Mappings of the target, changed by system calls in it.

use engraft_process::TargetAddress;

use super::calls::Calls;
use crate::error::Error;

/// The arguments of `mmap`.
pub(super) struct Map {
    pub(super) address: TargetAddress,
    pub(super) length: u64,
    pub(super) protection: i32,
    pub(super) flags: i32,
    /// A descriptor, and the offset in its file.
    pub(super) file: Option<(u64, u64)>,
}

impl Map {
    /// Makes the mapping, and returns its address.
    pub(super) fn make(&self, calls: &mut Calls<'_, '_>) -> Result<TargetAddress, Error> {
        let (descriptor, offset) = self.file.unwrap_or((u64::MAX, 0));
        let arguments = [
            self.address.get(),
            self.length,
            self.protection as u64,
            self.flags as u64,
            descriptor,
            offset,
        ];
        calls
            .system_call(libc::SYS_mmap, arguments)
            .map(TargetAddress::new)
    }
}

/// Unmaps memory of the target.
pub(crate) fn unmap(
    calls: &mut Calls<'_, '_>,
    address: TargetAddress,
    length: u64,
) -> Result<(), Error> {
    calls
        .system_call(libc::SYS_munmap, [address.get(), length, 0, 0, 0, 0])
        .map(drop)
}

/// Changes the protection of memory of the target.
pub(super) fn protect(
    calls: &mut Calls<'_, '_>,
    address: TargetAddress,
    length: u64,
    protection: i32,
) -> Result<(), Error> {
    let arguments = [address.get(), length, protection as u64, 0, 0, 0];
    calls.system_call(libc::SYS_mprotect, arguments).map(drop)
}
