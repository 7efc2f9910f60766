//! A process made of data, and an explorer of all that can happen to it.
//!
//! - [`scope`]: which patches, modules and threads there are, and what can happen to them.
//! - [`process`]: memory, threads and loader of the process; [`hands`] is the
//!   [`World`](engraft_core::World) that acts on it.
//! - [`history`]: the specification, worked out from what has happened alone.
//! - [`machine`]: the process with the real core that patches it, step by step; [`act`] has the
//!   steps, [`controller`] how those of a controller are taken.
//! - [`check`]: the properties, and [`log`] the grammar of the kernel's log.
//! - [`explore`]: breadth-first search over the machine's states.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "each test uses its own part, and is no shipped code"
)]

pub mod act;
pub mod check;
pub mod controller;
pub mod explore;
pub mod hands;
pub mod history;
pub mod log;
pub mod machine;
pub mod process;
pub mod scope;
