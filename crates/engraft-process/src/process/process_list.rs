//! The processes that there are.

use std::{fs, io};

/// The pids of all processes but this one, in ascending order.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn all_processes() -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid: Option<i32> = name.to_str().and_then(|name| name.parse().ok());
        pids.extend(pid.filter(|pid| u32::try_from(*pid) != Ok(std::process::id())));
    }
    pids.sort_unstable();
    Ok(pids)
}
