//! The caller of a patched function, as the thread itself sees it in dispatch.

#![expect(unsafe_code, reason = "reads the stack of the thread that runs it")]

use engraft_core::door::Call;

use crate::system;

/// A call of a patched function that has just been made.
pub(crate) struct Caller {
    /// The stack pointer at the function's entry, where the return address is.
    entry: u64,
}

impl Caller {
    /// The call whose return address is at `entry`.
    ///
    /// # Safety
    /// Only for the thread that has made the call, before the function has begun.
    pub(crate) unsafe fn at(entry: u64) -> Self {
        Self { entry }
    }
}

impl Call for Caller {
    fn stack_pointer(&self) -> u64 {
        self.entry.wrapping_add(size_of::<u64>() as u64)
    }

    fn return_address(&self) -> u64 {
        let entry = core::ptr::with_exposed_provenance::<u64>(self.entry as usize);
        // SAFETY: `at`'s caller has promised that the return address is there.
        unsafe { entry.read() }
    }

    fn is_on_alternate_stack(&self) -> Option<bool> {
        // A filter may end the process for a call that the program never makes.
        match system::is_filtered() {
            true => None,
            false => system::is_on_alternate_stack(),
        }
    }
}
