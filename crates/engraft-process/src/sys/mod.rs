//! What the kernel and the processor define: addresses, registers, system calls, and the gateways
//! to those kernel interfaces that need `unsafe`, one file each.
//!
//! Nothing else in this crate contains an unsafe block: a question about soundness is answered by
//! reading these files alone. Must not know: any process in particular.

pub(crate) mod address;
pub(crate) mod alarm;
pub(crate) mod effects;
pub(crate) mod ptrace;
pub(crate) mod range_lock;
pub(crate) mod registers;
pub(crate) mod restart;
pub(crate) mod robust_list;
pub(crate) mod signals;
pub(crate) mod time_slice;
pub(crate) mod vm;
pub(crate) mod wait;
