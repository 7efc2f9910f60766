//! Why a stack walk says nothing, and how far it came.

use std::fmt;

use crate::memory::access::MemoryError;
use crate::stack::walk::Frame;
use crate::sys::address::TargetAddress;

/// A walk that had to stop before it knew everything. The thread is not clear.
#[derive(Debug, thiserror::Error)]
pub struct BrokenWalk {
    /// The frames that are certain, innermost first; the last one is where the reason was met.
    pub frames: Vec<Frame>,
    /// Why it stopped.
    #[source]
    pub reason: WalkError,
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

/// What is not known, or not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The code belongs to no module that was there when the walk was prepared (generated code, a
    /// library loaded since).
    #[error("the code at {at} is in no known module")]
    NoModule {
        /// The code.
        at: TargetAddress,
    },
    /// Something else is mapped there than when the walk was prepared.
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
    /// The unwind table says nothing of this code.
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
        /// What is wrong.
        source: gimli::Error,
    },
    /// The unwind table has something that is not used on this machine.
    #[error("the unwind information for {at} is not understood: {what}")]
    NotUnderstood {
        /// The code.
        at: TargetAddress,
        /// What it is.
        what: &'static str,
    },
    /// A rule needs a register whose value in that frame is lost.
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
    /// There is no call instruction before what should be a return address.
    #[error("{value} is no return address: no call precedes it")]
    NoCall {
        /// The value.
        value: TargetAddress,
    },
    /// It is both a return address and the start of a signal restorer.
    #[error("{value} is a return address or the start of a signal restorer")]
    AmbiguousRestorer {
        /// The value.
        value: TargetAddress,
    },
    /// The unwind table marks this frame as the last one, but it is neither the start of a program
    /// nor of a thread (the start of a coroutine is marked in the same way).
    #[error("the stack ends at {at}, which is not the start of a program or thread")]
    UnknownEnd {
        /// The code of the last frame.
        at: TargetAddress,
    },
    /// The stack that ended in a known way is not the thread's own one.
    #[error("the walk ended at {stack_pointer}, which is not in the thread's own stack")]
    ForeignStack {
        /// The stack pointer of the last frame.
        stack_pointer: TargetAddress,
    },
    /// There are more frames than are looked at while the process stands still.
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
