//! Why a process could not be stopped or resumed.

use std::io;
use std::time::Duration;

use crate::process::task::Activity;

/// Why a process could not be stopped or resumed. Threads that were stopped have been resumed,
/// undisturbed.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The process has ended.
    #[error("process {pid} has ended")]
    Gone {
        /// The process.
        pid: i32,
    },
    /// The process has started another program meanwhile.
    #[error("process {pid} has started another program (exec) since; try again with the new one")]
    Executed {
        /// The process.
        pid: i32,
    },
    /// A debugger or another tracer is attached to the process.
    #[error("process {pid} is already traced by {tracer} (a debugger?); end that first")]
    AlreadyTraced {
        /// The process.
        pid: i32,
        /// The thread that traces it.
        tracer: i32,
    },
    /// We may not trace it.
    #[error(
        "no permission to trace thread {tid} of process {pid}; run as its user or as root, or with \
         CAP_SYS_PTRACE (and see /proc/sys/kernel/yama/ptrace_scope)"
    )]
    PermissionDenied {
        /// The process.
        pid: i32,
        /// The thread.
        tid: i32,
    },
    /// The process is dying and writes its memory to a file.
    #[error("process {pid} is writing a core dump; it is about to end")]
    CoreDumping {
        /// The process.
        pid: i32,
    },
    /// A thread waits for its vfork child, which has neither ended nor started a program.
    #[error(
        "thread {tid} of process {pid} has been waiting for its vfork child for more than \
         {timeout:?}; try again when the child has started its program"
    )]
    Vfork {
        /// The process.
        pid: i32,
        /// The thread.
        tid: i32,
        /// How long we have waited.
        timeout: Duration,
    },
    /// A thread waits in the kernel for something that cannot be interrupted (a disk, a network
    /// file system, a device).
    #[error(
        "thread {tid} of process {pid} has been in an uninterruptible sleep for more than \
         {timeout:?}{}; try again when that is over",
        activity.map(|activity| format!(" {activity}")).unwrap_or_default()
    )]
    Uninterruptible {
        /// The process.
        pid: i32,
        /// The thread.
        tid: i32,
        /// How long we have waited.
        timeout: Duration,
        /// Where the thread sleeps.
        activity: Option<Activity>,
    },
    /// The control group of the process has frozen it.
    #[error("process {pid} is frozen by its control group {group}; thaw it first")]
    Frozen {
        /// The process.
        pid: i32,
        /// The group's path below the directory of the freezer.
        group: String,
    },
    /// A thread did not stop in time, for no known reason.
    #[error("thread {tid} of process {pid} did not stop within {timeout:?}; try a longer time")]
    TimedOut {
        /// The process.
        pid: i32,
        /// The thread.
        tid: i32,
        /// How long we have waited.
        timeout: Duration,
    },
    /// The system reports another error.
    #[error("failed to {operation} of process {pid}: {source}")]
    System {
        /// The process.
        pid: i32,
        /// What we tried.
        operation: &'static str,
        /// The error.
        source: io::Error,
    },
}

impl StopError {
    /// The error for a thread in an uninterruptible sleep, by the call in which it sleeps.
    pub(crate) fn uninterruptible(
        pid: i32,
        tid: i32,
        timeout: Duration,
        activity: Option<Activity>,
    ) -> Self {
        const STARTS_A_PROCESS: [i64; 3] = [libc::SYS_vfork, libc::SYS_clone, libc::SYS_clone3];
        match activity {
            Some(Activity::InSystemCall { number, .. })
                if STARTS_A_PROCESS.iter().any(|start| *start as u64 == number) =>
            {
                Self::Vfork { pid, tid, timeout }
            }
            activity => Self::Uninterruptible {
                pid,
                tid,
                timeout,
                activity,
            },
        }
    }
}
