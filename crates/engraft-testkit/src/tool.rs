//! Programs that tests need.

use anyhow::{Result, ensure};

use crate::{is_root, skip};

/// Whether a program that this test needs is installed. If it is not, says that the test is
/// skipped.
///
/// # Errors
/// The program is missing although this is root: `cargo xtask test` should have installed it.
pub fn has_tool(test: &str, program: &str) -> Result<bool> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|directory| directory.join(program).is_file()) {
        return Ok(true);
    }
    ensure!(
        !is_root()?,
        "{program} is not installed; `cargo xtask test` installs it"
    );
    skip(test, &format!("{program} is not installed"));
    Ok(false)
}
