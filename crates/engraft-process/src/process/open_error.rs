//! Why a process could not be opened.

use std::io;

/// Why a process could not be opened. Nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no process of this number.
    #[error("no process {pid} (it may have ended)")]
    NoSuchProcess {
        /// The number asked for.
        pid: i32,
    },
    /// The number belongs to a thread that is not the first of its process.
    #[error("{pid} is a thread of process {process}; use the number of the process")]
    NotAProcess {
        /// The number asked for.
        pid: i32,
        /// The process it belongs to.
        process: i32,
    },
    /// We may not trace it.
    #[error(
        "no permission to trace process {pid}; run as its user or as root, or with CAP_SYS_PTRACE \
         (and see /proc/sys/kernel/yama/ptrace_scope)"
    )]
    PermissionDenied {
        /// The process.
        pid: i32,
    },
    /// The number belongs to a thread of the kernel.
    #[error("{pid} is a thread of the kernel, not a program")]
    KernelThread {
        /// The number of the process.
        pid: i32,
    },
    /// The process has ended, and its parent has not yet asked for its exit status.
    #[error("process {pid} has ended (a zombie)")]
    Zombie {
        /// The process.
        pid: i32,
    },
    /// The process does not run 64-bit x86 code.
    #[error("process {pid} is not a 64-bit x86 program; only these are supported")]
    ForeignArchitecture {
        /// The process.
        pid: i32,
    },
    /// The process was loading another program (exec) for as long as we waited.
    #[error("process {pid} is about to run another program (exec); try again")]
    Starting {
        /// The process.
        pid: i32,
    },
    /// A process cannot stop itself.
    #[error("process {pid} is this very process, which cannot stop itself")]
    Ourselves {
        /// The process.
        pid: i32,
    },
    /// The system reports another error.
    #[error("failed to look at process {pid}: {source}")]
    System {
        /// The process.
        pid: i32,
        /// The error.
        source: io::Error,
    },
}
