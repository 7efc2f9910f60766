//! Instructions that are recognised in the memory of a process.

use crate::memory::access::Memory;
use crate::sys::address::TargetAddress;

/// Restorers: `mov $15, %rax; syscall` (glibc, musl) and `mov $15, %eax; syscall`. sigaction
/// installs one, to which signal handlers return. Every C library has one, and so have static
/// programs that use signals.
pub(crate) const RESTORERS: [&[u8]; 2] = [
    &[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05],
    &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05],
];
/// The length of the longest restorer, in bytes.
pub(crate) const LONGEST_RESTORER: usize = 9;

/// The length of the longest call instruction, without superfluous prefixes.
pub(crate) const TAIL: usize = 7;

/// Whether the code that ends with these bytes may end in a call: `e8` with a displacement, or `ff
/// /2` with any operand. Other instructions may end in the same bytes.
pub(crate) fn may_be_call(tail: &[u8; TAIL]) -> bool {
    const LENGTHS_OF_INDIRECT: [usize; 5] = [2, 3, 4, 6, 7];
    let indirect = |length: usize| matches!(&tail[TAIL - length..], [0xff, operand, ..] if operand & 0x38 == 0x10);
    tail[TAIL - 5] == 0xe8 || LENGTHS_OF_INDIRECT.into_iter().any(indirect)
}

/// Whether the code at this address calls `rt_sigreturn`.
pub(crate) fn is_restorer(memory: Memory<'_>, at: TargetAddress) -> bool {
    find_at(memory, Some(at), &RESTORERS).is_some()
}

/// Whether this code starts by calling `rt_sigreturn`.
pub(crate) fn starts_as_restorer(code: &[u8]) -> bool {
    RESTORERS
        .into_iter()
        .any(|pattern| code.starts_with(pattern))
}

/// The address, if one of the patterns is there.
pub(crate) fn find_at(
    memory: Memory<'_>,
    at: Option<TargetAddress>,
    patterns: &[&[u8]],
) -> Option<TargetAddress> {
    let at = at?;
    let is_there = |pattern: &&[u8]| {
        let length = pattern.len() as u64;
        let bytes = memory.read_bytes(at, length, length);
        bytes.is_ok_and(|bytes| bytes == **pattern)
    };
    patterns.iter().any(is_there).then_some(at)
}
