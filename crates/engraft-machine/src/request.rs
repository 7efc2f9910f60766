//! The system call with which a called function asks its caller for something, while the caller
//! holds other threads.
//!
//! The function executes `read(-1, record, LENGTH)`, with all of the low half of `rdi` set. The
//! caller, who traces it, serves the record at the entry of the call. Then the call is executed as
//! it stands, and fails with `EBADF`. Without a tracer only that happens.

/// What is in `rdx`; it tells these calls from any others: "engraf".
pub const LENGTH: u64 = 0x656e_6772_6166;
