//! A function to be called in a stopped thread.
//!
//! # The steps of a call
//! 1. A signal frame with the thread's state is written onto a stack
//!    ([`crate::call::signal_frame`]).
//! 2. All registers are set in one step: the call begins. If we die from here on, the thread
//!    finishes the call, returns into the restorer, and `rt_sigreturn` restores the thread.
//! 3. Signals are blocked, except synchronous ones: if SIGSEGV were blocked and happened anyway,
//!    the kernel would reset the program's handler.
//! 4. The thread runs until it is about to enter `rt_sigreturn`. The last step may wait until other
//!    threads have been resumed.
//! 5. The thread is brought to an ordinary stop before it executes any instruction of the program,
//!    and gets back exactly the registers with which it was stopped. The kernel's restart logic is
//!    then still to come, as if there had been no call ([`crate::call::restore`]).
//!
//! # Requests
//! Code that runs in a call may ask us to do something ([`Requests`](crate::Requests)). The code
//! cannot tell whether its tracer still lives and holds the other threads, so it must leave to the
//! tracer what needs that.
//!
//! # seccomp
//! The kernel evaluates filters after our stop at the entry of a system call, also for the number
//! -1. We suspend a filter for the time of a call if we may, but the suspension ends with us. So a
//! thread that we hold is at no moment stopped before a system call that would be fatal under its
//! filter without us.

use std::time::Duration;

use crate::sys::address::TargetAddress;

/// A function to be called in a stopped thread.
#[derive(Clone, Copy, Debug)]
pub struct RemoteCall {
    /// The function; a plain SysV function of up to six integer arguments.
    pub entry: TargetAddress,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// The upper end of the stack on which the function runs. The frame takes about 4 KiB there (12
    /// KiB where AMX is in use); the rest is the function's. Nothing there is restored.
    pub stack_top: TargetAddress,
    /// Where the function returns to: code that does `mov %rax, %rbx; mov $15, %eax; syscall`. The
    /// result is read from `rbx`, which is of no use to the thread at that point.
    pub restorer: TargetAddress,
    /// How long the function may take.
    pub timeout: Duration,
    /// The function makes no system calls but those of every dynamic loader: then it may run under
    /// a seccomp filter that we cannot suspend.
    pub only_loader_calls: bool,
}
