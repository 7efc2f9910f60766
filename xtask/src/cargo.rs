//! Calls cargo, and finds what it has built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// How a binary is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// With debug assertions, as in tests.
    Dev,
    /// As users have it: what measurements need.
    Release,
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// The cargo that runs us, or the one in the path, to be called in the workspace's root.
pub fn command() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Builds `engraft` if it is not up to date, and returns the path of the binary.
pub fn build_engraft(profile: Profile) -> Result<PathBuf> {
    let mut build = command();
    build.args([
        "build",
        "--quiet",
        "--package",
        "engraft",
        "--bin",
        "engraft",
    ]);
    build.args(["--message-format", "json-render-diagnostics"]);
    if profile == Profile::Release {
        build.arg("--release");
    }
    let output = build
        .stderr(Stdio::inherit())
        .output()
        .context("failed to start cargo")?;
    ensure!(output.status.success(), "failed to build engraft");
    // One JSON object a line; the one about the binary names its path.
    let messages = String::from_utf8(output.stdout)?;
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.context("cargo did not say where the binary of engraft is")
}
