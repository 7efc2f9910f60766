//! Which system call a thread is in that the kernel resumes by `restart_syscall`.

use crate::memory::access::Memory;
use crate::process::handle::Process;
use crate::sys::registers::Registers;
use crate::sys::restart::RESTART_SYSCALL;

/// The calls that are resumed so, as far as they occur in programs.
const RESUMED: [i64; 4] = [
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_poll,
    libc::SYS_futex,
];

/// The number of the call that a stopped thread is in, if the kernel is to resume the call; `None`
/// if the number is not known.
pub(super) fn resumed_call(process: &Process, tid: i32, registers: &Registers) -> Option<u64> {
    if registers.orig_rax != RESTART_SYSCALL {
        return Some(registers.orig_rax);
    }
    if let Some(number) = process.interrupted_call(tid, registers) {
        return Some(number);
    }
    // Another tracer has stopped the thread before, or another command.
    let code = Memory::new(process).read_array(registers.instruction_pointer() - 7);
    number_in_code(code.ok()?)
}

/// The number, if `mov $number, %eax; syscall` has made the call, as C libraries mostly do.
fn number_in_code(code: [u8; 7]) -> Option<u64> {
    let [0xb8, a, b, c, d, 0x0f, 0x05] = code else {
        return None;
    };
    let number = u32::from_le_bytes([a, b, c, d]);
    RESUMED
        .contains(&i64::from(number))
        .then_some(number.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_that_are_resumed_are_taken_from_the_code() {
        assert_eq!(
            number_in_code([0xb8, 230, 0, 0, 0, 0x0f, 0x05]),
            Some(libc::SYS_clock_nanosleep as u64)
        );
        // read, and another instruction.
        assert_eq!(number_in_code([0xb8, 0, 0, 0, 0, 0x0f, 0x05]), None);
        assert_eq!(number_in_code([0xb9, 230, 0, 0, 0, 0x0f, 0x05]), None);
    }
}
