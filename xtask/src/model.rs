//! `cargo xtask model`: runs the core's example `story`. It shows the bug that the project started
//! from, found by the model checker in the old behaviour, and the same steps under our rules.

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
