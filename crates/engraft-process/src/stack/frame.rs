//! One frame of a stack.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::elf::modules::Module;
use crate::process::foreign::escape_name;
use crate::sys::address::TargetAddress;

/// One frame of a stack.
#[derive(Clone)]
pub struct Frame {
    /// Where the frame continues: at a return address, or, in the first frame and in one that a
    /// signal interrupted, at the next instruction.
    pub instruction_pointer: TargetAddress,
    /// The instruction pointer is that of the next instruction, not a return address.
    pub is_exact: bool,
    /// Where on the stack the instruction pointer is; `None` for the first frame.
    pub at: Option<TargetAddress>,
    /// The stack pointer in this frame.
    pub stack_pointer: TargetAddress,
    /// The canonical frame address: the stack pointer of the caller before the call; for a signal
    /// frame, when the signal came. `None` in the frame where a walk breaks.
    pub cfa: Option<TargetAddress>,
    /// The module of the frame's code; extra code has none.
    pub module: Option<Arc<Module>>,
}

impl Frame {
    /// The link-time address of the instruction pointer in its module.
    pub fn offset(&self) -> Option<u64> {
        let module = self.module.as_ref()?;
        Some(self.instruction_pointer - TargetAddress::new(module.load_bias))
    }

    /// Whether the frame continues inside this range, other than at the entry.
    pub fn is_in(&self, range: &Range<TargetAddress>) -> bool {
        let at = self.instruction_pointer;
        range.start < at && (at < range.end || (!self.is_exact && at == range.end))
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let module = self.module.as_ref();
        match (module, self.offset()) {
            (Some(module), Some(offset)) => {
                let path = module.path.as_deref().and_then(|path| path.file_name());
                let name = path.unwrap_or(&module.name);
                write!(f, "{}+{offset:#x}", escape_name(name))
            }
            _ => write!(f, "{}", self.instruction_pointer),
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({self}, sp {})", self.stack_pointer)
    }
}
