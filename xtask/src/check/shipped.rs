//! The command that users build has no hook of the tests.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::cargo;

/// Variables of the test hooks. One that a shell happens to export must not end a command in the
/// middle of a stop.
const HOOKS: [&str; 2] = ["ENGRAFT_PROCESS_DIE_AT", "ENGRAFT_PROCESS_FAIL_AT"];

/// Where the command is afterwards. Cargo puts the tests' own command in the place of this one.
pub(super) fn path() -> PathBuf {
    cargo::workspace().join("target/shipped/engraft")
}

/// Builds the command with the features that it has for users, and searches it for the hooks. The
/// tests that kill the command at each effect show that the tests' own command has them.
///
/// Features decide about hooks, and nothing else does. So the profile is that of the tests: a
/// release build would compile everything once more.
pub(super) fn check() -> Result<()> {
    // That of an earlier run must not stand for this one.
    if path().exists() {
        fs::remove_file(path())?;
    }
    let built = cargo::build_engraft_with(&[])?;
    fs::create_dir_all(cargo::workspace().join("target/shipped"))?;
    fs::copy(built, path())?;
    let command = fs::read(path())?;
    for hook in HOOKS {
        let mut windows = command.windows(hook.len());
        ensure!(
            !windows.any(|window| window == hook.as_bytes()),
            "the command that users build reads {hook}"
        );
    }
    Ok(())
}
