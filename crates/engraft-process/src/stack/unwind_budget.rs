//! How much of a process's unwind tables is read, all modules together.

use std::fmt;
use std::rc::Rc;

use crate::process::handle::Process;
use crate::process::limits::{BeyondLimit, Budget, UNWIND_BYTES};

/// What may still be read of the unwind tables of one process. Clones count together.
#[derive(Clone)]
pub(crate) struct UnwindBudget(Rc<Budget>);

impl UnwindBudget {
    pub(crate) fn new(process: &Process) -> Self {
        let what = "bytes of unwind tables";
        Self(Rc::new(Budget::new(process.pid(), what, UNWIND_BYTES)))
    }

    /// Takes so many bytes of it.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), BeyondLimit> {
        self.0.take(bytes)
    }
}

impl fmt::Debug for UnwindBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnwindBudget")
    }
}
