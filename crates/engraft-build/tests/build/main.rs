//! From a source fix to a patch, with the machine's own compiler, on small projects.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests are tests, which clippy.toml cannot tell"
)]

mod changes;
mod commands;
mod complete;
mod layouts;
mod references;
mod refusals;
mod registers;
mod relaxed;
mod requests;
mod support;
mod trampolines;
mod unread;
mod unwind;
