//! The command under test, run as a user runs it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{Outcome, TIME_LIMIT, run};

/// The exit codes of `engraft`, written down a second time on purpose: scripts of users depend on
/// these numbers, so a test must fail when one of them changes.
pub mod exit {
    /// Done.
    pub const OK: i32 = 0;
    /// The command line is wrong.
    pub const USAGE: i32 = 2;
    /// There is no process with this id.
    pub const NO_SUCH_PROCESS: i32 = 3;
    /// The process may not be touched by this user.
    pub const PERMISSION_DENIED: i32 = 4;
    /// The file is no patch file, damaged or truncated.
    pub const BAD_PATCH_FILE: i32 = 5;
    /// The patch was made for another build.
    pub const DOES_NOT_FIT: i32 = 6;
    /// A thread did not leave a function in time.
    pub const TARGET_BUSY: i32 = 7;
    /// No patch could be made of the fix.
    pub const BUILD_FAILED: i32 = 8;
    /// This process cannot be patched: a debugger traces it, its architecture is not supported, ...
    pub const NOT_PATCHABLE: i32 = 9;
    /// The process holds no patch of this name.
    pub const NO_SUCH_PATCH: i32 = 10;
    /// The patch's state does not allow what was asked for.
    pub const WRONG_STATE: i32 = 11;
    /// Part of a fix is in none of the binaries.
    pub const INCOMPLETE: i32 = 12;
}

/// The `--timeout` of commands, long enough for a loaded machine. Tests of the timeout itself give
/// their own.
const PATIENCE: [&str; 2] = ["--timeout", "50"];

/// The `engraft` binary.
#[derive(Debug, Clone)]
pub struct Engraft {
    program: PathBuf,
}

impl Engraft {
    /// Takes the path of the binary.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
        }
    }

    /// The path of the binary.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The start of a command line; the caller adds the rest.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        command
    }

    /// `engraft build`.
    pub fn build(
        &self,
        source: &Path,
        fix: &Path,
        binaries: &[PathBuf],
        name: &str,
        output: &Path,
        build_command: &[&str],
    ) -> Result<Outcome> {
        let mut command = self.command(["build"]);
        command.arg("--source").arg(source).arg("--patch").arg(fix);
        for binary in binaries {
            command.arg("--binary").arg(binary);
        }
        command
            .args(["--name", name])
            .arg("--output")
            .arg(output)
            .arg("--")
            .args(build_command);
        run(&mut command, TIME_LIMIT)
    }

    /// `engraft apply`.
    pub fn apply(&self, patch: &Path, pid: u32) -> Result<Outcome> {
        run(
            self.command(["apply"])
                .arg(patch)
                .args(["--pid", &pid.to_string()])
                .args(PATIENCE),
            TIME_LIMIT,
        )
    }

    /// `engraft disable`.
    pub fn disable(&self, name: &str, pid: u32) -> Result<Outcome> {
        run(
            self.command(["disable", name, "--pid", &pid.to_string()])
                .args(PATIENCE),
            TIME_LIMIT,
        )
    }

    /// `engraft status --json`, which must succeed.
    pub fn status(&self, pid: u32) -> Result<Value> {
        let mut command = self.command(["status", "--json", "--pid", &pid.to_string()]);
        let outcome = run(&mut command, TIME_LIMIT)?.exits(exit::OK)?;
        serde_json::from_str(&outcome.stdout).with_context(|| format!("no JSON from {outcome}"))
    }

    /// Any command line.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Outcome> {
        run(&mut self.command(arguments), TIME_LIMIT)
    }

    /// The names of the patches in effect according to `engraft status`, oldest first.
    pub fn patches(&self, pid: u32) -> Result<Vec<String>> {
        let status = self.status(pid)?;
        let patches = status["patches"]
            .as_array()
            .context("the status lists no patches")?;
        Ok(patches
            .iter()
            .filter(|patch| patch["state"] != "disabled")
            .filter_map(|patch| patch["name"].as_str())
            .map(str::to_owned)
            .collect())
    }
}
