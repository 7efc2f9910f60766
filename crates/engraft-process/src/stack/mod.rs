//! The stacks of stopped threads: which code may a thread return into? A conservative scan, and a
//! precise walk by unwind tables.
//!
//! Must not know: how threads are stopped, calls, patches.

pub(crate) mod door;
pub(crate) mod eh_frame;
pub(crate) mod frame;
pub(crate) mod frame_registers;
pub(crate) mod memory_scan;
pub(crate) mod own_stack;
pub(crate) mod replaced_code;
pub(crate) mod scan;
pub(crate) mod signal_context;
pub(crate) mod stack_end;
pub(crate) mod tail_calls;
pub(crate) mod unwind_budget;
pub(crate) mod unwind_rules;
pub(crate) mod unwind_table;
pub(crate) mod user_context;
pub(crate) mod verdict;
pub(crate) mod walk;
pub(crate) mod walk_context;
pub(crate) mod walk_error;
