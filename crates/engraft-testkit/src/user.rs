//! Who runs the tests.

use anyhow::{Context, Result};

/// Whether this process is root, and so may install packages and become other users.
pub fn is_root() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    // Uid: real, effective, saved, file system.
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let effective = uids.and_then(|uids| uids.split_whitespace().nth(1));
    Ok(effective.context("failed to read the user id")? == "0")
}
