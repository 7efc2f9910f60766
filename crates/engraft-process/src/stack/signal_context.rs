//! The registers that the kernel saved when it interrupted a thread by a signal.

use crate::memory::access::MemoryError;
use crate::memory::fields::word;
use crate::memory::page_cache::PageCache;
use crate::stack::frame_registers::FrameRegisters;
use crate::sys::address::TargetAddress;

/// The offset of the registers in `struct ucontext`.
const REGISTERS: u64 = 40;
/// DWARF numbers in the order of `struct sigcontext_64` (`arch/x86/include/uapi/asm/sigcontext.h`):
/// r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
const ORDER: [usize; 17] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, 16];
/// The offset of the last one.
const INSTRUCTION_POINTER: u64 = REGISTERS + 16 * 8;

/// Reads the registers from the `ucontext` at this address. The second result is the address of the
/// instruction pointer.
pub(crate) fn interrupted(
    memory: &PageCache<'_>,
    context: TargetAddress,
) -> Result<(FrameRegisters, TargetAddress), MemoryError> {
    let bytes: [u8; ORDER.len() * 8] = memory.read_array(context + REGISTERS)?;
    let mut registers = FrameRegisters::default();
    for (place, number) in ORDER.into_iter().enumerate() {
        registers.set(number, Some(word(&bytes, place * 8)));
    }
    Ok((registers, context + INSTRUCTION_POINTER))
}
