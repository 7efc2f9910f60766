//! Why a stack walk broke, and how far it came.

use std::fmt;

use crate::memory::access::MemoryError;
use crate::stack::frame::Frame;
use crate::sys::address::TargetAddress;

/// A walk that broke before its end. The thread counts as not clear.
#[derive(Debug, thiserror::Error)]
pub struct BrokenWalk {
    /// The frames that are certain, innermost first; the walk broke in the last one.
    pub frames: Vec<Frame>,
    /// Why the walk broke.
    #[source]
    pub reason: WalkError,
}

impl BrokenWalk {
    /// Whether the walk broke at code that no unwind table describes: made while the program runs,
    /// or assembled without a table. All else may mean that the stack is not what it seems.
    pub(crate) fn is_at_undescribed_code(&self) -> bool {
        matches!(
            self.reason,
            WalkError::NoModule { .. }
                | WalkError::NoUnwindTable { .. }
                | WalkError::NoEntry { .. }
        )
    }
}

impl fmt::Display for BrokenWalk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = &self.reason;
        match self.frames.last() {
            Some(frame) => write!(
                f,
                "{reason} (after frame {} at {frame})",
                self.frames.len() - 1
            ),
            None => write!(f, "{reason}"),
        }
    }
}

/// Why a walk broke: something is unknown, or not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The code belongs to no module that was there when the walk was prepared: it is generated
    /// code, or of a library that was loaded later.
    #[error("the code at {at} is in no known module")]
    NoModule {
        /// The code.
        at: TargetAddress,
    },
    /// Another file is mapped there than when the walk was prepared.
    #[error("the module at {at} is not the one that was there before")]
    ModuleChanged {
        /// The code.
        at: TargetAddress,
    },
    /// The module has no unwind table that is loaded with it.
    #[error("the module of {at} has no unwind table")]
    NoUnwindTable {
        /// The code.
        at: TargetAddress,
    },
    /// The unwind table has no entry for this code.
    #[error("the unwind table has no entry for {at}")]
    NoEntry {
        /// The code.
        at: TargetAddress,
    },
    /// The unwind table is damaged.
    #[error("the unwind information for {at} is damaged: {source}")]
    Damaged {
        /// The code.
        at: TargetAddress,
        /// The error of the parser.
        source: gimli::Error,
    },
    /// The unwind table has a construct that is not used on this machine.
    #[error("the unwind information for {at} is not understood: {what}")]
    NotUnderstood {
        /// The code.
        at: TargetAddress,
        /// The construct.
        what: &'static str,
    },
    /// A rule needs a register whose value in this frame is lost.
    #[error("register {register} (DWARF number) of the frame at {at} is not known")]
    LostRegister {
        /// The code.
        at: TargetAddress,
        /// Its DWARF number.
        register: u16,
    },
    /// The frame does not lie above the one it called, in the same stack.
    #[error("the frame at {cfa} does not follow the stack pointer {stack_pointer}")]
    NoAdvance {
        /// The canonical frame address that came out.
        cfa: TargetAddress,
        /// The stack pointer in this frame.
        stack_pointer: TargetAddress,
    },
    /// No call instruction precedes the value, so it is no return address.
    #[error("{value} is no return address: no call precedes it")]
    NoCall {
        /// The value.
        value: TargetAddress,
    },
    /// The value is a return address, or the start of a signal restorer: both fit.
    #[error("{value} is a return address or the start of a signal restorer")]
    AmbiguousRestorer {
        /// The value.
        value: TargetAddress,
    },
    /// The unwind table marks this frame as the last one, but the frame is neither the start of a
    /// program nor of a thread. (The start of a coroutine is marked in the same way.)
    #[error("the stack ends at {at}, which is not the start of a program or thread")]
    UnknownEnd {
        /// The code of the last frame.
        at: TargetAddress,
    },
    /// The stack ends in a known way, but is not the thread's own one.
    #[error("the walk ended at {stack_pointer}, which is not in the thread's own stack")]
    ForeignStack {
        /// The stack pointer of the last frame.
        stack_pointer: TargetAddress,
    },
    /// There are more frames than we look at while the process is stopped.
    #[error("there are more than {limit} frames")]
    TooManyFrames {
        /// The bound.
        limit: usize,
    },
    /// There are more signal frames than can be right.
    #[error("there are more than {limit} signal frames")]
    TooManySignalFrames {
        /// The bound.
        limit: usize,
    },
    /// Memory could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}
