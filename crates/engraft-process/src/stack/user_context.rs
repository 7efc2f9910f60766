//! Contexts of `swapcontext` (`ucontext_t`), recognised in memory. `swapcontext` stores the address
//! to which it returns, and the stack pointer after that return. While the context is suspended,
//! nothing changes its stack, so the address is still on the stack, too. Other pairs of words are
//! like that only by chance: not what `getcontext` has stored of a function that has continued, and
//! not a context that has never run, whose address is the entry of its function. Saved frame
//! pointers and data of unwinders look alike, and are told apart below.

use std::ops::Range;

use crate::memory::access::Memory;
use crate::memory::fields::word;
use crate::process::handle::Process;
use crate::sys::address::TargetAddress;

/// Offsets in x86-64's `ucontext_t`, which libc and kernel share: address and size of the stack,
const STACK: u64 = 16;
const STACK_SIZE: u64 = 32;
/// the registers,
const REGISTERS: u64 = 40;
const REGISTER_COUNT: u64 = 23;
/// and among them the stack pointer, which the instruction pointer follows.
const STACK_POINTER: u64 = REGISTERS + 15 * 8;
/// libgcc's unwinder stores a frame's CFA and return address side by side, too, and these stay on
/// the stack of a thread that was cancelled or has ended. At this distance after the CFA it has
/// flags, which are always the following (libgcc: `uw_init_context_1`). In a `ucontext_t` an unused
/// part of the signal mask is there.
const UNWINDER_FLAGS: u64 = 48;
const SIGNAL_FRAME: u64 = 1 << 63;
const EXTENDED_CONTEXT: u64 = 1 << 62;
/// No stack is larger.
const LARGEST_STACK: u64 = 1 << 32;

/// A suspended context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserContext {
    /// Where the context will continue.
    pub instruction_pointer: TargetAddress,
    /// The part of its stack that is in use, as far as the context knows its stack.
    pub stack: Range<TargetAddress>,
    /// Where its registers are stored.
    pub registers: Range<TargetAddress>,
}

impl UserContext {
    /// The context whose stack pointer is stored at an address, if there is one.
    pub(crate) fn at(process: &Process, noted_at: TargetAddress) -> Option<Self> {
        let memory = Memory::new(process);
        let start = noted_at - STACK_POINTER;
        let bytes: [u8; (STACK_POINTER + 16) as usize] = memory.read_array(start).ok()?;
        let field = |offset: u64| TargetAddress::new(word(&bytes, offset as usize));
        let (stack_pointer, instruction_pointer) = (field(STACK_POINTER), field(STACK_POINTER + 8));
        let on_stack = stack_pointer - 8;
        // A frame pointer that was saved below a return address may point right above that: then
        // the address on the stack is the second word itself.
        let is_one_word = on_stack == noted_at + 8;
        let flags = memory.read_u64(noted_at + UNWINDER_FLAGS).ok()?;
        let is_unwinders = flags & !SIGNAL_FRAME == EXTENDED_CONTEXT;
        let returned_to = memory.read_u64(on_stack).ok()?;
        if is_one_word || is_unwinders || TargetAddress::new(returned_to) != instruction_pointer {
            return None;
        }
        let (stack, size) = (field(STACK), field(STACK_SIZE).get());
        let end = stack.get().checked_add(size).map(TargetAddress::new);
        let end = end
            .filter(|end| size <= LARGEST_STACK && stack <= stack_pointer && stack_pointer <= *end);
        let registers = start + REGISTERS;
        Some(Self {
            instruction_pointer,
            // The first context of a thread does not know its stack.
            stack: stack_pointer..end.unwrap_or(TargetAddress::new(u64::MAX)),
            registers: registers..registers + REGISTER_COUNT * 8,
        })
    }

    /// Whether the word at an address belongs to the context: to its registers, or to the part of
    /// its stack that is in use. If the end of the stack is not known, `end_of_memory` gives the
    /// end of the memory around it.
    pub fn holds(
        &self,
        at: TargetAddress,
        end_of_memory: impl FnOnce(TargetAddress) -> TargetAddress,
    ) -> bool {
        let known = self.stack.end != TargetAddress::new(u64::MAX);
        let end = || match known {
            true => self.stack.end,
            false => end_of_memory(self.stack.start),
        };
        self.registers.contains(&at) || (self.stack.start <= at && at < end())
    }
}
