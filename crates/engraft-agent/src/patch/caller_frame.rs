//! The frame of a patched function's caller, as the calling thread sees it in dispatch.

#![expect(unsafe_code, reason = "reads the stack of the thread that runs it")]

use engraft_core::door::Call;

use crate::system;

/// The frame of a caller that has just called a patched function.
pub(crate) struct CallerFrame {
    /// The stack pointer at the function's entry: the address of the return address.
    entry: u64,
}

impl CallerFrame {
    /// The frame of the call whose return address is at `entry`.
    ///
    /// # Safety
    /// Only for the thread that has made the call, before the function has begun.
    pub(crate) unsafe fn at(entry: u64) -> Self {
        Self { entry }
    }
}

impl Call for CallerFrame {
    fn stack_pointer(&self) -> u64 {
        self.entry.wrapping_add(size_of::<u64>() as u64)
    }

    fn return_address(&self) -> u64 {
        let entry = core::ptr::with_exposed_provenance::<u64>(self.entry as usize);
        // SAFETY: the return address is there (the promise of `at`).
        unsafe { entry.read() }
    }

    fn is_on_alternate_stack(&self) -> Option<bool> {
        // A filter may end the process for a system call that the program never makes.
        match system::is_filtered() {
            true => None,
            false => system::is_on_alternate_stack(),
        }
    }
}
