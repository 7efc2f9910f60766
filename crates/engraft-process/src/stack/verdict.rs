//! Whether a thread may execute or return into certain code: the result of a scan or a walk.

use std::ops::Range;

use crate::memory::access::MemoryError;
use crate::process::limits::BeyondLimit;
use crate::stack::frame::Frame;
use crate::stack::walk_error::BrokenWalk;
use crate::sys::address::TargetAddress;

/// What a scan or a walk has found out about one thread.
#[derive(Debug)]
pub enum Verdict {
    /// No word can be a return address into the ranges.
    Clear,
    /// The thread is executing in a range.
    Running {
        /// The range.
        range: Range<TargetAddress>,
        /// The instruction.
        instruction_pointer: TargetAddress,
    },
    /// A word on the thread's stack may be a return address into a range.
    Sleeping {
        /// The range.
        range: Range<TargetAddress>,
        /// Where on the stack the word is.
        at: TargetAddress,
        /// The word.
        value: TargetAddress,
        /// The frame that will return there, if the stack was walked. Without a walk the word may
        /// be a left-over.
        frame: Option<Frame>,
    },
    /// Not everything could be looked at, so the thread counts as not clear.
    Unreliable(Unreliable),
}

/// Why a verdict is not certain.
#[derive(Debug, thiserror::Error)]
pub enum Unreliable {
    /// The stack pointer is in no mapping.
    #[error("the stack pointer {stack_pointer} is in no mapping")]
    NoStack {
        /// The stack pointer.
        stack_pointer: TargetAddress,
    },
    /// The thread is on a stack that is not its own (a coroutine), and the stack from which it came
    /// is unknown.
    #[error("the stack at {stack_pointer} is not the thread's own (a coroutine?)")]
    ForeignStack {
        /// The stack pointer.
        stack_pointer: TargetAddress,
    },
    /// The stack is too long to be scanned.
    #[error("the stack at {stack_pointer} has {length} bytes, more than can be scanned")]
    TooLarge {
        /// The stack pointer.
        stack_pointer: TargetAddress,
        /// The length in bytes.
        length: u64,
    },
    /// The stack could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The stacks have more than we look at in one process.
    #[error(transparent)]
    Beyond(#[from] BeyondLimit),
    /// A word may be a return address, and the walk that was to tell broke.
    #[error(transparent)]
    Walk(#[from] BrokenWalk),
}
