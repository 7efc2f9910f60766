//! `cargo xtask model`: the bug that the project started from, found by the model checker in the old
//! behaviour, and the same steps under our rules. The story is the core's own example; this runs it.

use anyhow::{Context, Result, ensure};

use crate::cargo;

/// Runs the story.
pub fn run() -> Result<()> {
    let mut story = cargo::command();
    story.args([
        "run",
        "--quiet",
        "--package",
        "engraft-core",
        "--example",
        "story",
    ]);
    let status = story.status().context("failed to start cargo")?;
    ensure!(status.success(), "the story ended with {status}");
    Ok(())
}
