//! The precise stack walk: into which code will a thread return?
//!
//! The walk follows the call frame information (`.eh_frame`) of the modules from frame to frame,
//! and fails closed: anything unknown ends the walk with a reason, and the thread is not clear.
//! Nothing is guessed by frame pointers. Besides what the tables say, every step is checked:
//! - a caller's frame lies above the one it called, in the same mapping (after a signal frame it
//!   may be anywhere: alternate stacks);
//! - a call instruction precedes every return address;
//! - the last frame is marked as such, is the start of a program or a thread, and is in the
//!   thread's own stack.
//!
//! # Which instruction a frame is in
//! A return address is that of the instruction after the call. After a call that does not return,
//! that may be the first instruction of another function. So a frame is looked up, and belongs to a
//! range, by the byte before its return address. The innermost frame, and one that a signal
//! interrupted, are at the very instruction.
//!
//! # Where stacks end
//! See [`crate::stack::stack_end`]: at the start of the program, or where a thread was born. musl
//! has no unwind tables at all: the walk of a thread that sleeps in a system call there is
//! unreliable, and only the scan can show that the thread is clear.
//!
//! # What leaves no frame
//! No thread returns to a function that ended in a tail call. The walk does not find it, and need
//! not.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use crate::elf::modules::Module;
use crate::memory::access::Memory;
use crate::memory::instructions::{LONGEST_RESTORER, TAIL, may_be_call, starts_as_restorer};
use crate::memory::maps::Maps;
use crate::memory::page_cache::PageCache;
use crate::process::handle::Process;
use crate::process::limits::WALK_PLACES;
use crate::stack::frame::Frame;
use crate::stack::frame_registers::{FrameRegisters, STACK_POINTER};
use crate::stack::signal_context;
use crate::stack::stack_end::StackEnds;
use crate::stack::unwind_rules::{CallerFrame, UnwindRules};
use crate::stack::verdict::{Unreliable, Verdict};
use crate::stack::walk_context::WalkContext;
use crate::stack::walk_error::{BrokenWalk, WalkError};
use crate::sys::address::TargetAddress;
use crate::trace::thread_state::ThreadState;

/// A walk of so many frames takes about ten milliseconds, during which the process is stopped.
const MAX_FRAMES: usize = 1 << 16;
/// A handler may be interrupted by another signal, and so on.
const MAX_SIGNAL_FRAMES: usize = 32;

/// Walks the threads of a stopped process. What was read is kept, so make a new one for every stop.
#[derive(Debug)]
pub struct StackWalk<'s> {
    context: &'s WalkContext,
    maps: &'s Maps,
    process_memory: Memory<'s>,
    memory: PageCache<'s>,
    ends: StackEnds<'s>,
    /// The code of frames that were seen before. Threads often wait in the same places, and a
    /// recursion returns to one place again and again.
    known: RefCell<HashMap<(TargetAddress, bool), Rc<Code>>>,
}

/// The code of a frame.
#[derive(Debug)]
struct Code {
    module: Option<Arc<Module>>,
    kind: Kind,
    is_start: bool,
}

#[derive(Debug)]
enum Kind {
    Described(Box<UnwindRules>),
    /// A signal restorer that no table describes.
    Restorer,
}

/// A frame whose code is not yet known.
struct Candidate {
    registers: FrameRegisters,
    is_exact: bool,
    at: Option<TargetAddress>,
}

impl<'s> StackWalk<'s> {
    /// Prepares walks. The map must be of the present stop.
    pub fn new(process: &'s Process, maps: &'s Maps, context: &'s WalkContext) -> Self {
        Self {
            context,
            maps,
            process_memory: Memory::new(process),
            memory: PageCache::new(Memory::new(process)),
            ends: StackEnds::new(process, maps),
            known: RefCell::default(),
        }
    }

    /// The map of the stop.
    pub(crate) fn maps(&self) -> &Maps {
        self.maps
    }

    /// The modules and their unwind tables.
    pub(crate) fn context(&self) -> &WalkContext {
        self.context
    }

    /// The target's memory.
    pub(crate) fn process_memory(&self) -> Memory<'_> {
        self.process_memory
    }

    /// All frames of a thread, innermost first.
    ///
    /// # Errors
    /// The walk could not be finished; the frames up to there are in the error.
    pub fn walk(&self, thread: &ThreadState) -> Result<Vec<Frame>, BrokenWalk> {
        let mut frames = Vec::new();
        match self.collect(thread, &mut frames) {
            Ok(()) => Ok(frames),
            Err(reason) => Err(BrokenWalk { frames, reason }),
        }
    }

    /// Whether the thread executes, or may return into, one of the ranges.
    pub fn check<'r>(
        &self,
        thread: &ThreadState,
        ranges: impl IntoIterator<Item = &'r Range<TargetAddress>>,
    ) -> Verdict {
        if thread.is_kernel_worker {
            return Verdict::Clear;
        }
        let (frames, broken) = match self.walk(thread) {
            Ok(frames) => (frames, None),
            Err(mut broken) => (std::mem::take(&mut broken.frames), Some(broken)),
        };
        let ranges: Vec<_> = ranges.into_iter().collect();
        // A frame that was found is certain, even if the walk broke further out.
        let hit = frames.iter().find_map(|frame| {
            let range = ranges.iter().find(|range| frame.is_in(range))?;
            Some((frame, (*range).clone()))
        });
        match (hit, broken) {
            (Some((frame, range)), _) => match frame.at {
                Some(at) => Verdict::Sleeping {
                    range,
                    at,
                    value: frame.instruction_pointer,
                    frame: Some(frame.clone()),
                },
                None => Verdict::Running {
                    range,
                    instruction_pointer: frame.instruction_pointer,
                },
            },
            (None, Some(mut broken)) => {
                broken.frames = frames;
                Verdict::Unreliable(Unreliable::Walk(broken))
            }
            (None, None) => Verdict::Clear,
        }
    }

    fn collect(&self, thread: &ThreadState, frames: &mut Vec<Frame>) -> Result<(), WalkError> {
        let mut next = Candidate {
            registers: FrameRegisters::from(&thread.registers),
            is_exact: true,
            at: None,
        };
        let mut signal_frames = 0;
        loop {
            if frames.len() >= MAX_FRAMES {
                let limit = MAX_FRAMES;
                return Err(WalkError::TooManyFrames { limit });
            }
            self.process_memory.check_time()?;
            let instruction_pointer = next.registers.instruction_pointer();
            self.check_return_address(&next)?;
            let stack_pointer = stack_pointer(&next.registers);
            frames.push(Frame {
                instruction_pointer,
                is_exact: next.is_exact,
                at: next.at,
                stack_pointer,
                cfa: None,
                module: self.context.module(instruction_pointer).cloned(),
            });
            let code = self.code(instruction_pointer, next.is_exact)?;
            let caller = self.caller(&code, &next.registers)?;
            if let Some(frame) = frames.last_mut() {
                frame.cfa = Some(caller.cfa);
                // By the byte before the return address, which may be in another module.
                frame.module.clone_from(&code.module);
            }
            let Some(registers) = caller.registers else {
                let at = instruction_pointer;
                let is_start = code.is_start;
                return self
                    .ends
                    .check(&self.memory, thread, is_start, at, stack_pointer);
            };
            if code.is_signal_frame() {
                signal_frames += 1;
                if signal_frames > MAX_SIGNAL_FRAMES {
                    let limit = MAX_SIGNAL_FRAMES;
                    return Err(WalkError::TooManySignalFrames { limit });
                }
            } else {
                self.check_advance(caller.cfa, stack_pointer)?;
            }
            if registers.instruction_pointer().is_null() {
                let at = instruction_pointer;
                return Err(WalkError::UnknownEnd { at });
            }
            next = Candidate {
                registers,
                is_exact: code.is_signal_frame(),
                at: caller.return_at,
            };
        }
    }

    fn caller(&self, code: &Code, registers: &FrameRegisters) -> Result<CallerFrame, WalkError> {
        match &code.kind {
            Kind::Described(rules) => rules.apply(registers, &self.memory),
            Kind::Restorer => {
                // The handler has returned to the restorer, so the context, the rest of the frame,
                // is on top of the stack.
                let context = stack_pointer(registers);
                let (registers, at) = signal_context::interrupted(&self.memory, context)?;
                Ok(CallerFrame {
                    cfa: stack_pointer(&registers),
                    return_at: Some(at),
                    registers: Some(registers),
                })
            }
        }
    }

    /// A return address follows a call, or is the address of a restorer, which the kernel has put
    /// on the stack.
    fn check_return_address(&self, candidate: &Candidate) -> Result<(), WalkError> {
        let value = candidate.registers.instruction_pointer();
        if candidate.is_exact || self.follows_call(value) || self.is_restorer(value) {
            Ok(())
        } else {
            Err(WalkError::NoCall { value })
        }
    }

    fn follows_call(&self, at: TargetAddress) -> bool {
        let tail = self.memory.read_array(at - TAIL as u64);
        tail.is_ok_and(|tail| may_be_call(&tail))
    }

    fn is_restorer(&self, at: TargetAddress) -> bool {
        let code = self.memory.read_array::<LONGEST_RESTORER>(at);
        code.is_ok_and(|code| starts_as_restorer(&code))
    }

    /// The stack pointer must grow from frame to frame, and stay in its mapping.
    fn check_advance(
        &self,
        cfa: TargetAddress,
        stack_pointer: TargetAddress,
    ) -> Result<(), WalkError> {
        let mapping = self.maps.find(stack_pointer);
        let same = mapping.is_some_and(|mapping| cfa <= mapping.range.end);
        if same && cfa > stack_pointer {
            Ok(())
        } else {
            Err(WalkError::NoAdvance { cfa, stack_pointer })
        }
    }

    fn code(&self, at: TargetAddress, is_exact: bool) -> Result<Rc<Code>, WalkError> {
        if let Some(code) = self.known.borrow().get(&(at, is_exact)) {
            return Ok(Rc::clone(code));
        }
        let code = if is_exact {
            self.described(at)
        } else if self.is_restorer(at) {
            self.restorer(at)
        } else {
            self.described(at - 1)
        };
        let code = Rc::new(code?);
        let mut known = self.known.borrow_mut();
        if known.len() >= WALK_PLACES {
            known.clear();
        }
        known.insert((at, is_exact), Rc::clone(&code));
        Ok(code)
    }

    /// The code at an address, by its module's table.
    fn described(&self, at: TargetAddress) -> Result<Code, WalkError> {
        let place = self.context.place(at, self.maps)?;
        let found = place.table.find(self.process_memory, at)?;
        let is_start = place.entry.is_some_and(|at| found.function.contains(&at));
        Ok(Code {
            module: place.module.cloned(),
            kind: Kind::Described(Box::new(found.rules)),
            is_start,
        })
    }

    /// The restorer at an address. glibc's unwind table describes its restorer from the byte before
    /// it on, so that it is found like a return address. Before a restorer that no table describes
    /// may be the end of another function; if that ends in a call, the address may mean either.
    fn restorer(&self, at: TargetAddress) -> Result<Code, WalkError> {
        if let Ok(code) = self.described(at - 1)
            && code.is_signal_frame()
        {
            return Ok(code);
        }
        if self.follows_call(at) {
            return Err(WalkError::AmbiguousRestorer { value: at });
        }
        Ok(Code {
            module: self.context.module(at).cloned(),
            kind: Kind::Restorer,
            is_start: false,
        })
    }
}

impl Code {
    fn is_signal_frame(&self) -> bool {
        match &self.kind {
            Kind::Described(rules) => rules.is_signal_frame,
            Kind::Restorer => true,
        }
    }
}

fn stack_pointer(registers: &FrameRegisters) -> TargetAddress {
    TargetAddress::new(registers.get(STACK_POINTER).unwrap_or(0))
}
