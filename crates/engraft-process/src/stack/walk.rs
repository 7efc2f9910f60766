//! The precise stack walk: which code will a thread return into?
//!
//! It follows the call frame information (`.eh_frame`) of the modules from frame to frame, and fails
//! closed: whatever is not known ends it with a reason, and the thread is not clear. There are no
//! guesses by frame pointers. Besides what the tables say, every step is checked:
//! - a caller's frame lies above the one it called, in the same mapping (after a signal frame it may be
//!   anywhere: alternate stacks);
//! - a call instruction precedes every return address;
//! - the last frame is marked as such, is the start of a program or a thread, and is in the thread's
//!   own stack.
//!
//! # Which instruction a frame is in
//! The return address of a call is the instruction behind it, which, behind a call that does not
//! return, may be the first one of another function. So a frame is looked up, and belongs to a range,
//! by the byte before its return address. The innermost frame, and one that was interrupted by a
//! signal, are at the very instruction.
//!
//! # Where stacks end
//! See [`crate::stack::stack_end`]: at the start of the program, or where a thread was born. musl has no unwind
//! tables in its code at all; there a thread that sleeps in a system call is unreliable here, and is clear
//! only by the scan.
//!
//! # What leaves no frame
//! A function that left by a tail call will not be returned to; it is not found, and need not be.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use crate::call::gadgets::{LONGEST_RESTORER, starts_as_restorer};
use crate::elf::modules::Module;
use crate::memory::access::Memory;
use crate::memory::maps::Maps;
use crate::memory::page_cache::PageCache;
use crate::process::foreign::escape_name;
use crate::process::handle::Process;
use crate::process::limits::WALK_PLACES;
use crate::stack::call_site::{TAIL, may_be_call};
use crate::stack::frame_registers::{FrameRegisters, STACK_POINTER};
use crate::stack::scan::{Unreliable, Verdict};
use crate::stack::signal_context;
use crate::stack::stack_end::StackEnds;
use crate::stack::unwind_rules::{Caller, UnwindRules};
use crate::stack::walk_context::WalkContext;
use crate::stack::walk_error::{BrokenWalk, WalkError};
use crate::stop::stopped_thread::ThreadState;
use crate::sys::address::TargetAddress;

/// A walk this long takes about ten milliseconds, during which the process stands still.
const MAX_FRAMES: usize = 1 << 16;
/// A handler may be interrupted by another signal, and so on.
const MAX_SIGNAL_FRAMES: usize = 32;

/// One frame of a stack.
#[derive(Clone)]
pub struct Frame {
    /// Where it goes on: a return address, or for the first frame and for one that a signal
    /// interrupted, the next instruction.
    pub instruction_pointer: TargetAddress,
    /// Is it that next instruction, and not a return address?
    pub is_exact: bool,
    /// Where on the stack the instruction pointer is; not for the first frame.
    pub at: Option<TargetAddress>,
    /// Its stack pointer.
    pub stack_pointer: TargetAddress,
    /// Its canonical frame address: the stack pointer of its caller before the call; for a signal
    /// frame, when the signal came. Not known in the frame where a walk breaks.
    pub cfa: Option<TargetAddress>,
    /// The module of its code; extra code has none.
    pub module: Option<Arc<Module>>,
}

impl Frame {
    /// The link-time address of the instruction pointer in its module.
    pub fn offset(&self) -> Option<u64> {
        let module = self.module.as_ref()?;
        Some(self.instruction_pointer - TargetAddress::new(module.load_bias))
    }

    /// Will it go on inside this range, other than at the entry?
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

/// Walks of the threads of a stopped process. It keeps what it has read, so it must be made anew for
/// every stop.
#[derive(Debug)]
pub struct StackWalk<'s> {
    context: &'s WalkContext,
    maps: &'s Maps,
    process_memory: Memory<'s>,
    memory: PageCache<'s>,
    ends: StackEnds<'s>,
    /// What is known of code that frames are in. Threads often wait in the same places, and a
    /// recursion comes through one place again and again.
    known: RefCell<HashMap<(TargetAddress, bool), Rc<Code>>>,
}

/// Code that a frame is in.
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

/// A frame before it is known what code it is in.
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
            process_memory: process.memory(),
            memory: PageCache::new(process.memory()),
            ends: StackEnds::new(process, maps),
            known: RefCell::default(),
        }
    }

    /// The map of the stop.
    pub(crate) fn maps(&self) -> &Maps {
        self.maps
    }

    /// What is known of code.
    pub(crate) fn context(&self) -> &WalkContext {
        self.context
    }

    /// The target's memory.
    pub(crate) fn process_memory(&self) -> Memory<'_> {
        self.process_memory
    }

    /// All frames of a thread, innermost first.
    pub fn walk(&self, thread: &ThreadState) -> Result<Vec<Frame>, BrokenWalk> {
        let mut frames = Vec::new();
        match self.collect(thread, &mut frames) {
            Ok(()) => Ok(frames),
            Err(reason) => Err(BrokenWalk { frames, reason }),
        }
    }

    /// Is it certain that the thread does not execute or return into the ranges?
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
        // What was found is certain, even if the walk broke further out.
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
                // By the byte before, which may be in another module than the one behind.
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

    fn caller(&self, code: &Code, registers: &FrameRegisters) -> Result<Caller, WalkError> {
        match &code.kind {
            Kind::Described(rules) => rules.apply(registers, &self.memory),
            Kind::Restorer => {
                // The handler has returned to it, so the frame's rest, the context, is on top.
                let context = stack_pointer(registers);
                let (registers, at) = signal_context::interrupted(&self.memory, context)?;
                Ok(Caller {
                    cfa: stack_pointer(&registers),
                    return_at: Some(at),
                    registers: Some(registers),
                })
            }
        }
    }

    /// A return address is behind a call, or is a restorer, which the kernel has put there.
    fn check_return_address(&self, candidate: &Candidate) -> Result<(), WalkError> {
        let value = candidate.registers.instruction_pointer();
        if candidate.is_exact || self.is_behind_call(value) || self.is_restorer(value) {
            Ok(())
        } else {
            Err(WalkError::NoCall { value })
        }
    }

    fn is_behind_call(&self, at: TargetAddress) -> bool {
        let tail = self.memory.read_array(at - TAIL as u64);
        tail.is_ok_and(|tail| may_be_call(&tail))
    }

    fn is_restorer(&self, at: TargetAddress) -> bool {
        let code = self.memory.read_array::<LONGEST_RESTORER>(at);
        code.is_ok_and(|code| starts_as_restorer(&code))
    }

    /// The stack pointer grows from frame to frame, and stays in its mapping.
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

    /// The restorer at an address. glibc's is described by its table, from the byte before it on,
    /// so that it is found like a return address. For one that is not described, the byte before
    /// may belong to another function; if that ends in a call, the address may mean either.
    fn restorer(&self, at: TargetAddress) -> Result<Code, WalkError> {
        if let Ok(code) = self.described(at - 1)
            && code.is_signal_frame()
        {
            return Ok(code);
        }
        if self.is_behind_call(at) {
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
