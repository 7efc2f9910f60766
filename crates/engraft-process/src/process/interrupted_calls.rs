//! The system calls in which threads have been stopped for the first time.
//!
//! After the first stop in a call that the kernel resumes by `restart_syscall` (nanosleep, poll,
//! futex with a timeout), the thread continues under the number of `restart_syscall`, and at the
//! next stop nothing shows what it was called for. A thread that has to restore itself by
//! `rt_sigreturn`, because we have died, needs the number to make the call again: the kernel has
//! forgotten the rest of the call by then, and `restart_syscall` would return `EINTR`.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::process::handle::Process;
use crate::sys::registers::Registers;
use crate::sys::restart::{RESTART_SYSCALL, has_restart_block};

/// The registers of threads in such calls, by thread number.
#[derive(Debug, Default)]
pub(super) struct InterruptedCalls(Mutex<HashMap<i32, Registers>>);

impl Process {
    /// Notes that a thread has been stopped with these registers.
    pub(crate) fn note_interrupted_call(&self, tid: i32, registers: &Registers) {
        if has_restart_block(registers)
            && registers.orig_rax != RESTART_SYSCALL
            && let Ok(mut calls) = self.shared.interrupted_calls.0.lock()
        {
            calls.insert(tid, *registers);
        }
    }

    /// The number of the call that a thread is in, if we have seen it stopped in this call before.
    pub(crate) fn interrupted_call(&self, tid: i32, registers: &Registers) -> Option<u64> {
        let calls = self.shared.interrupted_calls.0.lock().ok()?;
        let seen = calls.get(&tid).filter(|seen| is_same_call(seen, registers));
        seen.map(|seen| seen.orig_rax)
    }
}

/// Whether a thread is still in the call in which it was seen.
fn is_same_call(seen: &Registers, now: &Registers) -> bool {
    let call = |it: &Registers| [it.rip, it.rsp, it.rdi, it.rsi, it.rdx, it.r10];
    call(seen) == call(now)
}

#[cfg(test)]
mod tests {
    use super::*;

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
