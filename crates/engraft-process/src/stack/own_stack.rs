//! Whether a stack is the one on which its thread was started.

use std::ops::Range;

use crate::memory::maps::Mapping;
use crate::sys::address::TargetAddress;
use crate::trace::thread_state::ThreadState;

/// Whether the stack is the one on which the thread was started.
///
/// The first thread's stack has a name. Other threads have their thread control block at the upper
/// end of their stack, in glibc and musl alike. A heap does not count: a static program has the
/// first thread's block there.
pub(crate) fn is_own_stack(
    thread: &ThreadState,
    stack_pointer: TargetAddress,
    mapping: &Mapping,
) -> bool {
    mapping.name == "[stack]" || (!thread.is_first && holds_thread(thread, stack_pointer, mapping))
}

/// Whether the thread control block is above the stack pointer in this mapping.
pub(crate) fn holds_thread(
    thread: &ThreadState,
    stack_pointer: TargetAddress,
    mapping: &Mapping,
) -> bool {
    let pointer = thread.registers.thread_pointer();
    mapping.range.contains(&pointer) && stack_pointer < pointer && mapping.name != "[heap]"
}

/// The stack on which the thread was started, if the stack pointer is on it: from the start of the
/// mapping to the thread control block. Memory above that may belong to something else.
pub(crate) fn own_stack(
    thread: &ThreadState,
    stack_pointer: TargetAddress,
    mapping: &Mapping,
) -> Option<Range<TargetAddress>> {
    let pointer = thread.registers.thread_pointer();
    let end = match mapping.range.contains(&pointer) {
        true => pointer,
        false => mapping.range.end,
    };
    is_own_stack(thread, stack_pointer, mapping).then_some(mapping.range.start..end)
}
