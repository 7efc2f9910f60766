//! The command that users build has no hook of the tests.

use std::fs;

use anyhow::{Result, ensure};

use crate::cargo;

/// Variables of the test hooks. One that a shell happens to export must not end a command in the
/// middle of a stop.
const HOOKS: [&str; 2] = ["ENGRAFT_PROCESS_DIE_AT", "ENGRAFT_PROCESS_FAIL_AT"];

/// Builds the command as users do, and searches it for the hooks. The tests that kill the command
/// at each effect show that the tests' own command has them.
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
