//! The patch file: its rules and its form on disk.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests are tests, which clippy.toml cannot tell"
)]

mod check;
mod file;
mod support;
