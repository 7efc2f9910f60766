//! How far the stack of a thread has to shrink until no replaced code is on it.
//!
//! A walk of the whole stack shows the outermost replaced frame. Its CFA, and those of the frames
//! further out, are stack pointers from which calls can be made only after that frame has ended.
//! Where code without unwind tables (of a just-in-time compiler, say) ends the walk, the scan shows
//! that no frame further out is replaced. `docs/transition.md` has the argument.

use std::ops::Range;

use crate::memory::maps::Mapping;
use crate::stack::frame::Frame;
use crate::stack::own_stack::own_stack;
use crate::stack::replaced_code::ReplacedCode;
use crate::stack::scan::StackScan;
use crate::stack::tail_calls::may_jump_to_replaced;
use crate::stack::walk::StackWalk;
use crate::sys::address::TargetAddress;
use crate::trace::thread_state::ThreadState;

/// A thread whose stack pointer is above the first depth, on the same stack, has left all replaced
/// code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackDoor {
    /// The thread's own stack, if the walk ended early and nothing else is in the mapping. A call
    /// from there that tells nothing shuts the door until the thread is checked again.
    pub own_stack: Option<Range<TargetAddress>>,
    /// The lowest address that is known to belong to the stack.
    pub low: TargetAddress,
    /// Where the outermost replaced function returns to, if it may end in a jump to a replaced one.
    pub return_to: Option<TargetAddress>,
    /// The CFA of the outermost replaced frame, then those of frames further out; ascending.
    pub depths: Vec<TargetAddress>,
}

impl StackWalk<'_> {
    /// The door of a stopped thread. `None` if the thread is outside of replaced code, if it is
    /// about to decide where a call goes, or if neither a walk nor the scan, which is one for all
    /// replaced code, shows which replaced frame is the outermost.
    pub fn door(
        &self,
        thread: &ThreadState,
        replaced: &ReplacedCode,
        scan: &StackScan<'_>,
    ) -> Option<StackDoor> {
        if thread.is_kernel_worker {
            return None;
        }
        let (frames, is_whole) = match self.walk(thread) {
            Ok(frames) => (frames, true),
            Err(broken) if broken.is_at_undescribed_code() => (broken.frames, false),
            Err(_) => return None,
        };
        let is_in = |frame: &Frame, ranges: &[Range<TargetAddress>]| {
            ranges.iter().any(|range| frame.is_in(range))
        };
        if frames.iter().any(|frame| is_in(frame, &replaced.deciding)) {
            return None;
        }
        let outermost = frames
            .iter()
            .rposition(|frame| is_in(frame, &replaced.ranges))?;
        let (inner, outer) = frames.split_at_checked(outermost)?;
        let function = outer.first()?;
        // A frame that a signal has interrupted may be on another stack. The last frame has no
        // caller.
        let called = outer.windows(2).take_while(|pair| match pair {
            [_, caller] => !caller.is_exact,
            _ => false,
        });
        let depths: Vec<_> = called.filter_map(|pair| pair.first()?.cfa).collect();
        let ascending = depths.is_sorted_by(|inner, outer| inner < outer);
        if !ascending {
            return None;
        }
        let first = *depths.first()?;
        if !is_whole && !scan.is_clear_above(thread, first) {
            return None;
        }
        let returns_to = outer.get(1)?.instruction_pointer;
        let jumps = may_jump_to_replaced(
            self,
            function.instruction_pointer,
            function.is_exact,
            replaced,
        );
        let own_stack = self.own_stack(thread, function);
        let low = match &own_stack {
            Some(stack) if is_whole => stack.start,
            // After a walk that ended early the thread may be on a stack inside of an array on its
            // own one. Whatever lies below that array is not this stack.
            _ => innermost(inner, function),
        };
        Some(StackDoor {
            // The scan of a later check covers the arrays further out. A whole walk passes over
            // them, so a call that may come from one has to close the door.
            own_stack: own_stack.filter(|_| !is_whole),
            low,
            return_to: jumps.then_some(returns_to),
            depths,
        })
    }

    /// The thread's own stack, if the frame is on it and its mapping holds nothing else.
    fn own_stack(&self, thread: &ThreadState, frame: &Frame) -> Option<Range<TargetAddress>> {
        let mapping = self.maps().find(frame.stack_pointer)?;
        own_stack(thread, frame.stack_pointer, mapping).filter(|_| self.is_guarded(mapping))
    }

    /// Whether a mapping with a stack at its upper end holds nothing else: below the first thread's
    /// stack there is a gap, below others a page that cannot be accessed.
    fn is_guarded(&self, mapping: &Mapping) -> bool {
        let guards = |below: &Mapping| {
            below.range.end == mapping.range.start && !below.readable && !below.writable
        };
        mapping.name == "[stack]" || self.maps().iter().any(guards)
    }
}

/// The stack pointer in the innermost frame that is certain to be on the same stack as this frame.
fn innermost(inner: &[Frame], frame: &Frame) -> TargetAddress {
    let mut low = frame;
    for next in inner.iter().rev() {
        // A frame that a signal has interrupted is on the same stack as the next one only by
        // chance.
        if low.is_exact {
            break;
        }
        low = next;
    }
    low.stack_pointer
}
