//! Which system call a thread is in that the kernel resumes by `restart_syscall`.
//!
//! After the first stop in such a call (nanosleep, poll, futex with a timeout) the thread continues under the
//! number of `restart_syscall`, and at the next stop nothing says what it was called for. A thread that has to
//! restore itself by `rt_sigreturn`, because we have died, needs the number to make the call again: the kernel has
//! forgotten the rest of it by then, and `restart_syscall` would return `EINTR`.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::process::handle::Process;
use crate::sys::registers::Registers;
use crate::sys::restart::{RESTART_SYSCALL, has_restart_block};

/// The calls that are resumed so, as far as they occur in programs.
const RESUMED: [i64; 4] = [
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_poll,
    libc::SYS_futex,
];

/// The calls in which threads have been stopped for the first time.
#[derive(Debug, Default)]
pub(crate) struct InterruptedCalls(Mutex<HashMap<i32, Registers>>);

impl Process {
    /// A thread has been stopped with these registers.
    pub(crate) fn note_interrupted_call(&self, tid: i32, registers: &Registers) {
        if has_restart_block(registers)
            && registers.orig_rax != RESTART_SYSCALL
            && let Ok(mut calls) = self.shared.interrupted_calls.0.lock()
        {
            calls.insert(tid, *registers);
        }
    }

    /// The number of the call that a stopped thread is in, if it is to be resumed; `None` if that is not known.
    pub(crate) fn resumed_call(&self, tid: i32, registers: &Registers) -> Option<u64> {
        if registers.orig_rax != RESTART_SYSCALL {
            return Some(registers.orig_rax);
        }
        let seen = self.shared.interrupted_calls.0.lock().ok()?;
        let seen = seen.get(&tid).filter(|seen| is_same_call(seen, registers));
        if let Some(seen) = seen {
            return Some(seen.orig_rax);
        }
        // Somebody else has stopped it, or another command.
        let code = self
            .memory()
            .read_array(registers.instruction_pointer() - 7);
        number_in_code(code.ok()?)
    }
}

/// Whether a thread is still in the call in which it was seen.
fn is_same_call(seen: &Registers, now: &Registers) -> bool {
    let call = |it: &Registers| [it.rip, it.rsp, it.rdi, it.rsi, it.rdx, it.r10];
    call(seen) == call(now)
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

    #[test]
    fn another_call_at_the_same_place_is_told_by_its_arguments() {
        let seen = Registers {
            rip: 0x1002,
            rdi: 5,
            ..Registers::default()
        };
        assert!(is_same_call(&seen, &Registers { rax: 1, ..seen }));
        assert!(!is_same_call(&seen, &Registers { rdi: 6, ..seen }));
    }
}
