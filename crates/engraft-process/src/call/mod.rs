//! Running code in a stopped thread so that the thread restores itself if we die.
//!
//! Must not know: how all threads of a process are stopped and resumed, ELF, stacks.

pub(crate) mod call_slot;
pub(crate) mod call_thread;
pub(crate) mod filter;
pub(crate) mod function_call;
pub(crate) mod gadgets;
pub(crate) mod remote_call;
pub(crate) mod remote_call_error;
pub(crate) mod requests;
pub(crate) mod restore;
pub(crate) mod resumed_call;
pub(crate) mod signal_frame;
pub(crate) mod system_call;
