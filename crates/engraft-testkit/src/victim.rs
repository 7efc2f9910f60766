//! A small C program, from its sources to a running process and to a patch for it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{Engraft, Outcome, Program, TIME_LIMIT, exit, run};

/// A victim in a directory of its own, built by its Makefile.
///
/// There are two copies of the sources: one is built and run, the other stays as it is and is what
/// `engraft build` is given, as if it had been unpacked later to make the patch.
#[derive(Debug)]
pub struct Victim {
    directory: TempDir,
    make_arguments: Vec<String>,
}

impl Victim {
    /// Copies the files of `sources` and runs make.
    pub fn build(sources: &Path) -> Result<Self> {
        Self::build_with(sources, &[])
    }

    /// The same with arguments for make, which `engraft build` is given too.
    pub fn build_with(sources: &Path, make_arguments: &[&str]) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("engraft-victim-")
            // One test runs engraft as another user, who must be able to read the directory.
            .permissions(Permissions::from_mode(0o755))
            .tempdir()?;
        let victim = Self {
            directory,
            make_arguments: make_arguments.iter().map(ToString::to_string).collect(),
        };
        copy_files(sources, &victim.source())?;
        copy_files(sources, &victim.built())?;
        let mut make = Command::new("make");
        make.arg("--silent")
            .arg("-C")
            .arg(victim.built())
            .args(make_arguments);
        // The variables of an outer make name a jobserver that this make cannot use.
        make.env_remove("MAKEFLAGS").env_remove("MFLAGS");
        run(&mut make, TIME_LIMIT)?.exits(exit::OK)?;
        Ok(victim)
    }

    /// The sources, clean.
    pub fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    /// The directory in which make has built them.
    pub fn built(&self) -> PathBuf {
        self.directory.path().join("built")
    }

    /// A file in that directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.built().join(name)
    }

    /// Starts a program that make has made and waits until it is ready.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Result<Program> {
        Ok(Program::start(&self.file(program), arguments)?.0)
    }

    /// Runs `engraft build` with the source fix `fix` for the named binaries.
    ///
    /// Returns its output and the path of the patch file, which exists if it succeeded. The patch
    /// is called `name`.
    pub fn try_patch(
        &self,
        engraft: &Engraft,
        fix: &str,
        name: &str,
        binaries: &[&str],
    ) -> Result<(Outcome, PathBuf)> {
        let output = self.directory.path().join(format!("{name}.engraft"));
        let binaries: Vec<PathBuf> = binaries.iter().map(|binary| self.file(binary)).collect();
        let fix = self.source().join(fix);
        let make: Vec<&str> = std::iter::once("make")
            .chain(self.make_arguments.iter().map(String::as_str))
            .collect();
        let outcome = engraft.build(&self.source(), &fix, &binaries, name, &output, &make)?;
        Ok((outcome, output))
    }

    /// As [`Self::try_patch`], and fails unless the patch was made.
    pub fn patch(
        &self,
        engraft: &Engraft,
        fix: &str,
        name: &str,
        binaries: &[&str],
    ) -> Result<PathBuf> {
        let (outcome, output) = self.try_patch(engraft, fix, name, binaries)?;
        let outcome = outcome.exits(exit::OK)?;
        ensure!(output.is_file(), "no patch file from {outcome}");
        Ok(output)
    }
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let entries = fs::read_dir(from).with_context(|| format!("failed to list {from:?}"))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
