//! Calls cargo, and finds what it has built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A variable with the path of an `engraft` that the demo's test uses instead of building one.
pub const COMMAND: &str = "ENGRAFT_COMMAND";

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

/// Makes sure that the toolchain has rustfmt and clippy, which a minimal one comes without.
pub fn require_components() -> Result<()> {
    let has = |tool: &str| {
        let output = command().args([tool, "--version"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    if has("fmt") && has("clippy") {
        return Ok(());
    }
    println!("Installing rustfmt and clippy ...");
    let advice = "missing parts of the toolchain; run: rustup component add rustfmt clippy";
    let mut rustup = Command::new("rustup");
    rustup
        .args(["component", "add", "rustfmt", "clippy"])
        .current_dir(workspace());
    let status = rustup.status().context(advice)?;
    ensure!(status.success(), "{advice}");
    Ok(())
}

/// Whether cargo has this subcommand.
pub fn has_program(name: &str) -> bool {
    let version = command().args([name, "--version"]).output();
    version.is_ok_and(|output| output.status.success())
}

/// Makes sure that a subcommand of cargo is there: builds it if it is missing.
///
/// # Errors
/// It cannot be built; says how to install it.
pub fn require_program(name: &str) -> Result<()> {
    if has_program(name) {
        return Ok(());
    }
    println!("Building cargo-{name} ...");
    let package = format!("cargo-{name}");
    let mut install = command();
    install
        .args(["install", "--locked", "--quiet", &package])
        // Optimising it would take longer than it runs in a whole day of tests.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    let status = install.status().context("failed to start cargo")?;
    ensure!(
        status.success(),
        "missing {package}; run: cargo install --locked {package}"
    );
    Ok(())
}

/// Builds `engraft` as users do, if it is not up to date, and returns the path of the binary.
///
/// Not where the tests have theirs, which differs and may be in use.
pub fn build_engraft() -> Result<PathBuf> {
    build_engraft_with(&["--release", "--package", "engraft"])
}

/// The same with these arguments for cargo.
pub fn build_engraft_with(arguments: &[&str]) -> Result<PathBuf> {
    let mut build = command();
    build.args(["build", "--quiet", "--bin", "engraft"]);
    build.args(arguments);
    build.args(["--message-format", "json-render-diagnostics"]);
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
