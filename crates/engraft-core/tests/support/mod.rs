//! A process made of data, and an explorer of all that can happen to it.
//!
//! - [`process`]: memory, threads and loader of the process: the [`World`](engraft_core::World).
//! - [`log`]: the grammar of the kernel's log.
//! - [`machine`]: the process, the real core that patches it, and everything that either can do.
//! - [`explore`]: breadth-first search over the machine's states.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "each test uses its own part, and is no shipped code"
)]

pub mod explore;
pub mod log;
pub mod machine;
pub mod process;
