//! What is known of a stopped thread.

use crate::sys::registers::Registers;

/// What is known of a stopped thread.
#[derive(Clone, Copy, Debug)]
pub struct ThreadState {
    /// Its number.
    pub tid: i32,
    /// Its registers.
    pub registers: Registers,
    /// The thread was on a processor, or waited for one, when the stop began.
    pub was_running: bool,
    /// The thread shares the process, but never runs code of the program (an io_uring worker).
    pub is_kernel_worker: bool,
    /// This is the first thread of the process.
    pub is_first: bool,
    /// The process is stopped by SIGSTOP or the like, and stays so when we resume it.
    pub is_group_stopped: bool,
}
