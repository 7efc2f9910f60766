//! Where a process has instructions that a first remote system call borrows.

use crate::process::handle::Process;
use crate::sys::address::TargetAddress;

/// Where the instructions were when they were searched for. A library may have been unloaded since,
/// so they are looked at again before each use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BorrowedCode {
    /// `syscall; ret`.
    pub(crate) system_call_return: Option<TargetAddress>,
    /// `syscall`.
    pub(crate) system_call: Option<TargetAddress>,
    /// Code that calls `rt_sigreturn`.
    pub(crate) restorer: Option<TargetAddress>,
}

impl Process {
    /// The instructions, which `find` searches for at the first call.
    pub(crate) fn borrowed_code(&self, find: impl FnOnce() -> BorrowedCode) -> BorrowedCode {
        *self.shared.borrowed_code.get_or_init(find)
    }
}
