//! The conservative stack scan: it shows that a thread cannot return into certain code.
//!
//! The scan looks at every word of the thread's stack. A word strictly inside one of the ranges may
//! be a return address; if there is none, the thread is clear, whatever its unwind tables say. The
//! exact start of a range is a function pointer: nothing returns to it, and a call of it comes
//! through the entry. The exact end of a range is a return address only if the last instruction is
//! a call of a function that does not return; then an exception can still lead from there to a
//! handler inside.
//!
//! A thread that is not clear here is checked again by the precise walk:
//! [`StackScan::check_precisely`].

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::{Range, RangeInclusive};

use engraft_machine::RED_ZONE;

use crate::memory::access::Memory;
use crate::memory::fields::word;
use crate::memory::instructions::{
    LONGEST_RESTORER, TAIL, is_restorer, may_be_call, starts_as_restorer,
};
use crate::memory::maps::{Mapping, Maps};
use crate::process::handle::Process;
use crate::process::limits::{self, BeyondLimit, CODE_ADDRESSES};
use crate::stack::own_stack::{holds_thread, is_own_stack};
use crate::stack::verdict::{Unreliable, Verdict};
use crate::stack::walk::StackWalk;
use crate::sys::address::TargetAddress;
use crate::trace::thread_state::ThreadState;

/// A longer stack is not scanned: it is no ordinary one.
const MAX_SCAN: u64 = 64 << 20;
/// The size of the pieces in which a stack is read.
const PIECE: u64 = 256 << 10;
/// A handler may be interrupted by another signal, and so on.
const MAX_SIGNAL_FRAMES: usize = 32;
/// Where a signal frame, which starts with the address of the restorer, keeps the stack pointer.
const SAVED_STACK_POINTER: u64 = 8 + 40 + 15 * 8;

/// A scan for a set of ranges, prepared once for all threads of a process.
#[derive(Debug)]
pub struct StackScan<'s> {
    process: &'s Process,
    maps: &'s Maps,
    ranges: Vec<GuardedRange>,
    /// All executable memory.
    code: Vec<Range<TargetAddress>>,
    /// From the lowest to the highest address that matters. Most words of a stack are outside.
    span: RangeInclusive<TargetAddress>,
    /// Code addresses that were looked at. Threads that sleep in the same place have the same ones
    /// on their stacks.
    seen: RefCell<HashSet<TargetAddress>>,
    /// The restorers among these addresses.
    restorers: RefCell<HashSet<TargetAddress>>,
}

/// One range into which no thread may return.
#[derive(Debug)]
struct GuardedRange {
    range: Range<TargetAddress>,
    ends_in_call: bool,
}

/// How far the scan of one thread has come: the stacks to scan, and those scanned.
#[derive(Default)]
struct Progress {
    todo: Vec<Part>,
    done: Vec<Range<TargetAddress>>,
    seen_own_stack: bool,
    signal_frames: usize,
}

/// The part of a stack from a stack pointer on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Part {
    stack_pointer: TargetAddress,
    /// How many bytes below the stack pointer may be in use, too.
    red_zone: u64,
}

impl Part {
    /// Of code that may be in a function's middle, and use its red zone.
    fn in_use(stack_pointer: TargetAddress) -> Self {
        Self {
            stack_pointer,
            red_zone: RED_ZONE,
        }
    }
}

impl<'s> StackScan<'s> {
    /// Prepares a scan. The map must be of the present stop: a stack that is not in it makes the
    /// result unreliable, never clear.
    pub fn new(process: &'s Process, maps: &'s Maps, ranges: &[Range<TargetAddress>]) -> Self {
        let prepare = |range: &Range<TargetAddress>| GuardedRange {
            range: range.clone(),
            ends_in_call: may_end_in_call(process, range.end),
        };
        Self::with(process, maps, ranges.iter().map(prepare).collect())
    }

    /// Prepares a scan for bytes that are about to be overwritten: a thread that returns right
    /// after them does not execute them.
    pub fn of_bytes(process: &'s Process, maps: &'s Maps, ranges: &[Range<TargetAddress>]) -> Self {
        let prepare = |range: &Range<TargetAddress>| GuardedRange {
            range: range.clone(),
            ends_in_call: false,
        };
        Self::with(process, maps, ranges.iter().map(prepare).collect())
    }

    fn with(process: &'s Process, maps: &'s Maps, mut ranges: Vec<GuardedRange>) -> Self {
        ranges.sort_by_key(|target| target.range.start);
        let code: Vec<_> = maps
            .iter()
            .filter(|mapping| mapping.executable && mapping.readable)
            .map(|mapping| mapping.range.clone())
            .collect();
        let all = || code.iter().chain(ranges.iter().map(|target| &target.range));
        let lowest = all().map(|range| range.start).min().unwrap_or_default();
        let highest = all().map(|range| range.end).max().unwrap_or_default();
        Self {
            process,
            maps,
            ranges,
            code,
            span: lowest..=highest,
            seen: RefCell::default(),
            restorers: RefCell::default(),
        }
    }

    /// The range to which a return address of this value would belong.
    fn hit(&self, value: TargetAddress) -> Option<&Range<TargetAddress>> {
        let before = self
            .ranges
            .partition_point(|target| target.range.start < value);
        let GuardedRange {
            range,
            ends_in_call,
        } = self.ranges.get(before.checked_sub(1)?)?;
        let hit = value < range.end || (*ends_in_call && value == range.end);
        hit.then_some(range)
    }

    /// Scans the stack of a stopped thread.
    pub fn check(&self, thread: &ThreadState) -> Verdict {
        if thread.is_kernel_worker {
            return Verdict::Clear;
        }
        let instruction_pointer = thread.registers.instruction_pointer();
        // At the very entry the thread has executed nothing of the range yet.
        let inside = |range: &&Range<_>| instruction_pointer < range.end;
        if let Some(range) = self.hit(instruction_pointer).filter(inside) {
            return Verdict::Running {
                range: range.clone(),
                instruction_pointer,
            };
        }
        self.check_stacks(thread, Part::in_use(thread.registers.stack_pointer()))
            .unwrap_or_else(Verdict::Unreliable)
    }

    /// Whether a stopped thread would be clear if everything that lies below `cfa` had returned: no
    /// word from there on may be a return address into the ranges. Code that lies further out made
    /// a call from `cfa`, so it uses no red zone below it.
    pub(crate) fn is_clear_above(&self, thread: &ThreadState, cfa: TargetAddress) -> bool {
        let part = Part {
            stack_pointer: cfa,
            red_zone: 0,
        };
        matches!(self.check_stacks(thread, part), Ok(Verdict::Clear))
    }

    /// Scans the stack of a stopped thread, and walks it if the scan is not certain: if a word may
    /// be a return address (or a function pointer, or a left-over in a dead part of a frame), or if
    /// the stack may not be the thread's own.
    pub fn check_precisely(&self, thread: &ThreadState, walk: &StackWalk<'_>) -> Verdict {
        let verdict = self.check(thread);
        let walked = || {
            let ranges = self.ranges.iter().map(|target| &target.range);
            walk.check(thread, ranges)
        };
        match verdict {
            // A stack that is too long for a scan may have few frames: one in a large heap.
            Verdict::Sleeping { .. } | Verdict::Unreliable(Unreliable::TooLarge { .. }) => walked(),
            // Only a walk to where the thread was born can show that this is its own stack all the
            // same (see `crate::stack::stack_end`). If the walk does not, the scan's verdict
            // stands.
            Verdict::Unreliable(Unreliable::ForeignStack { .. }) => match walked() {
                Verdict::Unreliable(_) => verdict,
                walked => walked,
            },
            _ => verdict,
        }
    }

    fn check_stacks(&self, thread: &ThreadState, first: Part) -> Result<Verdict, Unreliable> {
        let mut progress = Progress {
            todo: vec![first],
            ..Progress::default()
        };
        while let Some(part) = progress.todo.pop() {
            if let Some(verdict) = self.check_stack(thread, part, &mut progress)? {
                return Ok(verdict);
            }
        }
        // An alternate signal stack leads to the thread's own one through the signal frame. If no
        // frame has led there, the own stack was not scanned.
        if progress.seen_own_stack {
            Ok(Verdict::Clear)
        } else {
            let stack_pointer = first.stack_pointer;
            Err(Unreliable::ForeignStack { stack_pointer })
        }
    }

    fn check_stack(
        &self,
        thread: &ThreadState,
        part: Part,
        progress: &mut Progress,
    ) -> Result<Option<Verdict>, Unreliable> {
        let stack_pointer = part.stack_pointer;
        let nowhere = Unreliable::NoStack { stack_pointer };
        let mapping = self.maps.find(stack_pointer).ok_or(nowhere)?;
        progress.seen_own_stack |= is_own_stack(thread, stack_pointer, mapping);
        // The red zone may reach below the mapping, where there is no stack.
        let start = (stack_pointer - part.red_zone)
            .align_down(8)
            .max(mapping.range.start);
        let end = self.stack_end(thread, stack_pointer, mapping);
        let length = end - start;
        if length > MAX_SCAN {
            return Err(Unreliable::TooLarge {
                stack_pointer,
                length,
            });
        }
        let mut at = start;
        while at < end {
            let length = (end - at).min(PIECE - at.get() % PIECE);
            let bytes = Memory::new(self.process).read_bytes(at, length, PIECE)?;
            if let Some(verdict) = self.check_piece(at, &bytes, progress)? {
                return Ok(Some(verdict));
            }
            at = at + length;
        }
        progress.done.push(start..end);
        Ok(None)
    }

    /// The end of the stack: the thread control block, which C libraries put at the upper end of a
    /// thread's own stack. Otherwise the end of the mapping, and of the mappings that follow
    /// without a gap, because a program may have changed the protection of a part. (The kernel may
    /// have merged the mapping of a stack with one above it.)
    fn stack_end(
        &self,
        thread: &ThreadState,
        stack_pointer: TargetAddress,
        mapping: &Mapping,
    ) -> TargetAddress {
        if !thread.is_first && holds_thread(thread, stack_pointer, mapping) {
            return thread.registers.thread_pointer().align_down(8);
        }
        let mut end = mapping.range.end;
        for next in self.maps.from(mapping.range.end) {
            let continues = next.range.start == end && next.readable && next.writable;
            if !continues || next.has_file() {
                break;
            }
            end = next.range.end;
        }
        end
    }

    fn check_piece(
        &self,
        start: TargetAddress,
        bytes: &[u8],
        progress: &mut Progress,
    ) -> Result<Option<Verdict>, Unreliable> {
        let words = bytes.chunks_exact(8).enumerate().map(|(index, chunk)| {
            let value = TargetAddress::new(word(chunk, 0));
            (start + index as u64 * 8, value)
        });
        let words: Vec<_> = words
            .filter(|(_, value)| self.span.contains(value))
            .collect();
        self.find_restorers(&words)?;
        for (at, value) in words {
            if let Some(range) = self.hit(value) {
                return Ok(Some(Verdict::Sleeping {
                    range: range.clone(),
                    at,
                    value,
                    frame: None,
                }));
            }
            if self.is_signal_frame(value) {
                self.follow_signal_frame(at, progress)?;
            }
        }
        Ok(None)
    }

    /// Whether the value is the address of code that calls `rt_sigreturn`: then a signal frame
    /// starts here.
    fn is_signal_frame(&self, value: TargetAddress) -> bool {
        self.restorers.borrow().contains(&value)
    }

    fn is_executable(&self, address: TargetAddress) -> bool {
        let after = self.code.partition_point(|range| range.start <= address);
        let range = after
            .checked_sub(1)
            .and_then(|before| self.code.get(before));
        range.is_some_and(|range| range.contains(&address))
    }

    /// Finds out which words of a piece of stack are addresses of restorers. Threads wait for this,
    /// so one system call reads all code that has to be looked at.
    fn find_restorers(&self, words: &[(TargetAddress, TargetAddress)]) -> Result<(), BeyondLimit> {
        let mut seen = self.seen.borrow_mut();
        let values = words.iter().map(|(_, value)| *value);
        let mut code: Vec<(TargetAddress, [u8; LONGEST_RESTORER])> = values
            .filter(|value| self.is_executable(*value) && seen.insert(*value))
            .map(|value| (value, [0; LONGEST_RESTORER]))
            .collect();
        let what = "code addresses on its stacks";
        limits::within(self.process.pid(), what, seen.len(), CODE_ADDRESSES)?;
        let memory = Memory::new(self.process);
        let mut places: Vec<_> = code
            .iter_mut()
            .map(|(at, code)| (*at, code.as_mut_slice()))
            .collect();
        // If one of the places cannot be read, perhaps at the end of a mapping, each is read by
        // itself.
        let all = memory.read_many(&mut places);
        for (at, code) in code {
            let is_restorer = match &all {
                Ok(()) => starts_as_restorer(&code),
                Err(_) => is_restorer(memory, at),
            };
            if is_restorer {
                self.restorers.borrow_mut().insert(at);
            }
        }
        Ok(())
    }

    /// Notes the stack that was in use when the signal came, unless that is part of a stack that is
    /// scanned anyway.
    fn follow_signal_frame(
        &self,
        frame: TargetAddress,
        progress: &mut Progress,
    ) -> Result<(), Unreliable> {
        let saved = Memory::new(self.process).read_u64(frame + SAVED_STACK_POINTER)?;
        let stack_pointer = TargetAddress::new(saved);
        let known = progress
            .done
            .iter()
            .any(|range| range.contains(&stack_pointer));
        progress.signal_frames += 1;
        let part = Part::in_use(stack_pointer);
        if known || progress.todo.contains(&part) {
            return Ok(());
        }
        if progress.signal_frames > MAX_SIGNAL_FRAMES {
            return Err(Unreliable::ForeignStack { stack_pointer });
        }
        // A left-over of an old frame may lead nowhere; then there is nothing to scan.
        if self.maps.find(stack_pointer).is_some() {
            progress.todo.push(part);
        }
        Ok(())
    }
}

/// Whether the code that ends here may end in a call instruction. Code that cannot be read may.
fn may_end_in_call(process: &Process, end: TargetAddress) -> bool {
    let tail = Memory::new(process).read_array(end - TAIL as u64);
    tail.map_or(true, |tail| may_be_call(&tail))
}
