//! Contexts of `swapcontext` (`ucontext_t`), recognised in memory.
//!
//! `swapcontext` notes the address that it returns to and the stack pointer behind that address. While the context is
//! suspended, nothing touches its stack, so the address is still on it, too. No other pair of words is like that but
//! by chance: neither what `getcontext` has noted of a function that went on, nor a context that has never run,
//! whose address is the entry of its function. What looks alike is told apart below: saved frame pointers, and what
//! unwinders note.

use std::ops::Range;

use crate::elf::headers::word;
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
/// libgcc's unwinder notes a frame's CFA and return address side by side, too, and what it has noted stays on the stack of
/// a thread that was cancelled or has ended. Its flags, so far behind the CFA, are never but these (libgcc:
/// `uw_init_context_1`); in a `ucontext_t` there is a signal mask that is not used.
const UNWINDER_FLAGS: u64 = 48;
const SIGNAL_FRAME: u64 = 1 << 63;
const EXTENDED_CONTEXT: u64 = 1 << 62;
/// No stack is larger.
const LARGEST_STACK: u64 = 1 << 32;

/// A suspended context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserContext {
    /// Where it will go on.
    pub instruction_pointer: TargetAddress,
    /// What of its stack is in use, as far as it knows its stack.
    pub stack: Range<TargetAddress>,
    /// Where its registers are.
    pub registers: Range<TargetAddress>,
}

impl UserContext {
    /// The context whose stack pointer is noted at an address.
    pub(crate) fn at(process: &Process, noted_at: TargetAddress) -> Option<Self> {
        let memory = process.memory();
        let start = noted_at - STACK_POINTER;
        let bytes: [u8; (STACK_POINTER + 16) as usize] = memory.read_array(start).ok()?;
        let field = |offset: u64| TargetAddress::new(word(&bytes, offset as usize));
        let (stack_pointer, instruction_pointer) = (field(STACK_POINTER), field(STACK_POINTER + 8));
        let on_stack = stack_pointer - 8;
        // A frame pointer that was saved below a return address may lead right above that: then both words are one.
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
            // The first context of a thread knows nothing of its stack.
            stack: stack_pointer..end.unwrap_or(TargetAddress::new(u64::MAX)),
            registers: registers..registers + REGISTER_COUNT * 8,
        })
    }

    /// Whether it holds a word: in its registers, or in what of its stack is in use. Where its stack ends is not
    /// always known; then `end_of_memory` says where the memory does in which it lies.
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
