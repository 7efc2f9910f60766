//! A thread, one instruction at a time.
#![expect(unsafe_code, reason = "ptrace has no safe interface")]

use std::ptr;

use engraft_process::Registers;
use rustix::process::{Pid, Signal, kill_process};

/// A thread that is stopped after every instruction.
pub struct Steps {
    tid: i32,
    signal: i32,
}

fn ptrace(request: libc::c_uint, tid: i32, data: *mut libc::c_void) {
    // SAFETY: the requests used here write at most to `data`, which the caller has made for that.
    let result = unsafe { libc::ptrace(request, tid, ptr::null_mut::<libc::c_void>(), data) };
    let error = std::io::Error::last_os_error();
    assert!(result >= 0, "request {request:#x}: {error}");
}

impl Steps {
    /// Stops the first thread of a process by a signal, and delivers that with the first step.
    pub fn start(tid: i32, signal: Signal) -> Self {
        ptrace(libc::PTRACE_SEIZE, tid, ptr::null_mut());
        kill_process(Pid::from_raw(tid).unwrap(), signal).unwrap();
        let signal = signal.as_raw();
        let steps = Self { tid, signal };
        steps.wait();
        steps
    }

    fn wait(&self) {
        let mut status = 0;
        // SAFETY: the status is ours to be written to.
        let waited = unsafe { libc::waitpid(self.tid, &mut status, libc::__WALL) };
        assert!(waited == self.tid && libc::WIFSTOPPED(status));
    }

    /// Executes one instruction.
    pub fn next(&mut self) -> Registers {
        let signal = std::mem::take(&mut self.signal);
        let data = ptr::without_provenance_mut(signal as usize);
        ptrace(libc::PTRACE_SINGLESTEP, self.tid, data);
        self.wait();
        let mut registers = Registers::default();
        ptrace(
            libc::PTRACE_GETREGS,
            self.tid,
            ptr::from_mut(&mut registers).cast(),
        );
        registers
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        ptrace(libc::PTRACE_DETACH, self.tid, ptr::null_mut());
    }
}
