//! What users get holds no hook of the tests.

use std::fs;

use anyhow::{Result, ensure};

use crate::cargo;

/// A variable that somebody's shell happens to export must not end a command in the middle of a stop.
const HOOKS: [&str; 2] = ["ENGRAFT_PROCESS_DIE_AT", "ENGRAFT_PROCESS_FAIL_AT"];

/// Builds the command as users do, and looks for the hooks. That the tests' own command has them is seen by the tests
/// that kill it at each effect.
pub(super) fn check() -> Result<()> {
    let command = fs::read(cargo::build_engraft()?)?;
    for hook in HOOKS {
        let mut windows = command.windows(hook.len());
        ensure!(
            !windows.any(|window| window == hook.as_bytes()),
            "the command that users build reads {hook}"
        );
    }
    Ok(())
}
