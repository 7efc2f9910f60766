//! Tests that cannot run here say so, loudly.

use std::io::Write;

/// Says that `test` did not run, and why, on a line that begins with `SKIPPED:`.
///
/// The line goes to stderr past the test runner's capture, which would hide it because the test
/// passes. `cargo xtask test` counts these lines as skipped tests.
pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED: {test}: {}\n", reason.replace('\n', "; "));
    // If stderr is closed, there is no place to report that.
    std::io::stderr().write_all(line.as_bytes()).ok();
}
