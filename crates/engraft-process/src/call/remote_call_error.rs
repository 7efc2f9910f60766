//! Why code could not be run in a stopped thread.

use std::io;
use std::time::Duration;

use crate::memory::access::MemoryError;
use crate::sys::address::TargetAddress;

/// Why a remote call failed. The thread is as it was before, except after `Gone` and `ThreadEnded`,
/// when there is none.
#[derive(Debug, thiserror::Error)]
pub enum RemoteCallError {
    /// The process has ended.
    #[error("process {pid} has ended")]
    Gone {
        /// The process.
        pid: i32,
    },
    /// The thread has ended.
    #[error("thread {tid} has ended")]
    ThreadEnded {
        /// The thread.
        tid: i32,
    },
    /// The system call was made, and failed.
    #[error("{} in the target failed: {}", name(*number), io::Error::from_raw_os_error(*errno))]
    SystemCall {
        /// The number of the call.
        number: i64,
        /// The error number.
        errno: i32,
    },
    /// The code that was called crashed.
    #[error(
        "the code called in thread {tid} crashed at {instruction_pointer} with signal {signal}"
    )]
    Crashed {
        /// The thread.
        tid: i32,
        /// The signal.
        signal: i32,
        /// The instruction.
        instruction_pointer: TargetAddress,
    },
    /// The code that was called did not return in time.
    #[error("the code called in thread {tid} did not return within {timeout:?}")]
    TimedOut {
        /// The thread.
        tid: i32,
        /// How long we have waited.
        timeout: Duration,
    },
    /// The thread is one of the kernel that shares the process, and runs no code of the program.
    #[error("thread {tid} is a worker of the kernel and runs no code of the program")]
    KernelWorker {
        /// The thread.
        tid: i32,
    },
    /// The thread's seccomp filter may forbid the call, and we may not suspend the filter.
    #[error(
        "thread {tid} has a seccomp filter that may end the process at this call; use another \
         thread, or CAP_SYS_ADMIN to suspend the filter"
    )]
    Seccomp {
        /// The thread.
        tid: i32,
    },
    /// The thread has a shadow stack, which would have to be prepared too.
    #[error("thread {tid} has a shadow stack (CET), which is not supported")]
    ShadowStack {
        /// The thread.
        tid: i32,
    },
    /// The thread is in a system call that it has made in another way than by `syscall`.
    #[error("thread {tid} is in a system call that was not made by a syscall instruction")]
    UnknownEntry {
        /// The thread.
        tid: i32,
    },
    /// There is no room below the thread's stack pointer, or no code to return by, or the text is
    /// too long.
    #[error(
        "there is no room on the stack of thread {tid} for a text that a system call is to read"
    )]
    NoStack {
        /// The thread.
        tid: i32,
    },
    /// There is no `syscall` instruction to borrow.
    #[error("no syscall instruction was found in the code of process {pid}")]
    NoInstruction {
        /// The process.
        pid: i32,
    },
    /// The extended state has an unknown form.
    #[error("the extended processor state of thread {tid} has an unknown form ({length} bytes)")]
    ExtendedState {
        /// The thread.
        tid: i32,
        /// The length of the state.
        length: usize,
    },
    /// The frame could not be written.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The system reports another error.
    #[error("failed to {operation} thread {tid}: {source}")]
    System {
        /// The thread.
        tid: i32,
        /// What we tried.
        operation: &'static str,
        /// The error.
        source: io::Error,
    },
}

/// The name of a system call, if it is one that we make in targets.
fn name(number: i64) -> String {
    let name = match number {
        libc::SYS_mmap => "mmap",
        libc::SYS_munmap => "munmap",
        libc::SYS_mprotect => "mprotect",
        libc::SYS_madvise => "madvise",
        libc::SYS_memfd_create => "memfd_create",
        libc::SYS_ftruncate => "ftruncate",
        libc::SYS_fcntl => "fcntl",
        libc::SYS_close => "close",
        libc::SYS_prctl => "prctl",
        _ => return format!("system call {number}"),
    };
    format!("the system call {name}")
}

impl RemoteCallError {
    /// The error number, if a system call was made and failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::SystemCall { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}
