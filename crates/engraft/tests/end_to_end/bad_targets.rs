//! A process that is not there, may not be touched, is traced, or runs another build: each has its
//! own exit code, the text says what was found, and the process is not touched.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use engraft_testkit::{
    Engraft, Outcome, Program, Snapshot, TIME_LIMIT, Victim, elf, exit, is_root, run, skip,
};

use crate::{engraft, victim, victims};

/// The user and group "nobody" of Debian; any that owns nothing would do.
pub(crate) const NOBODY: u32 = 65534;

#[test]
fn no_such_process() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    // Process ids are below this number, so it never is one.
    let pid = fs::read_to_string("/proc/sys/kernel/pid_max")?
        .trim()
        .parse()?;
    let number = u32::to_string(&pid);
    let says = |outcome: Outcome| outcome.exits(exit::NO_SUCH_PROCESS)?.says(&[&number]);
    says(engraft.apply(&patch, pid)?)?;
    says(engraft.disable("cheap-apples", pid)?)?;
    says(run(
        &mut engraft.command(["status", "--pid", &number]),
        TIME_LIMIT,
    )?)?;
    Ok(())
}

#[test]
fn no_permission() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let program = victim.start("workers", &["0"])?;
    if !is_root()? {
        skip("no_permission", "only root can run engraft as another user");
        return Ok(());
    }
    // The workspace may lie where other users cannot look.
    let [engraft, patch] = [engraft.program(), &patch].map(|file| copy_for_all(file, &victim));
    let (engraft, patch) = (Engraft::new(engraft?), patch?);
    let before = Snapshot::take(program.pid())?;
    let pid = program.pid().to_string();
    let mut apply = engraft.command(["apply"]);
    apply
        .arg(&patch)
        .args(["--pid", &pid])
        .uid(NOBODY)
        .gid(NOBODY);
    run(&mut apply, TIME_LIMIT)?
        .exits(exit::PERMISSION_DENIED)?
        .says(&[&pid, "hint:"])?;
    before.expect_untouched()?;
    program.finish()
}

pub(crate) fn copy_for_all(file: &Path, victim: &Victim) -> Result<PathBuf> {
    let copy = victim
        .file("for-all")
        .with_added_extension(file.file_name().unwrap_or_default());
    fs::copy(file, &copy)?;
    fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
    Ok(copy)
}

/// A process has one tracer at most, and we do not take it from a debugger.
#[test]
fn another_tracer() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("traced")?);
    let patch = victim.patch(&engraft, "fix.patch", "answer", &["traced"])?;
    let (tracer, traced) = Program::start::<&str>(&victim.file("traced"), &[])?;
    let outcome = engraft.apply(&patch, traced.parse()?)?;
    outcome
        .exits(exit::NOT_PATCHABLE)?
        .says(&[&traced, &tracer.pid().to_string()])?;
    tracer.finish()
}

/// Another build of the program: other code under the same name, with a build-id of its own.
#[test]
fn another_build_of_the_program() -> Result<()> {
    let engraft = engraft();
    let patch_for = victim("workers")?;
    let patch = patch_for.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let other = Victim::build_with(&victims().join("workers"), &["FLAVOUR=-O1"])?;
    let ids = [&patch_for, &other].map(|victim| elf::build_id(&victim.file("workers")));
    let [wanted, found] = ids;
    let (wanted, found) = (wanted?, found?);
    ensure!(wanted != found, "both builds have the build-id {found}");
    expect_no_fit(&engraft, &other, "workers", &patch, &[&wanted, &found])
}

/// The right build-id and other code: somebody edited the file.
#[test]
fn other_code_under_the_same_build_id() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    elf::copy_with_other_code(&victim.file("workers"), &victim.file("edited"), "price", 0)?;
    expect_no_fit(&engraft, &victim, "edited", &patch, &["price"])
}

fn expect_no_fit(
    engraft: &Engraft,
    victim: &Victim,
    program: &str,
    patch: &Path,
    words: &[&str],
) -> Result<()> {
    let program = victim.start(program, &["0"])?;
    let before = Snapshot::take(program.pid())?;
    engraft
        .apply(patch, program.pid())?
        .exits(exit::DOES_NOT_FIT)?
        .says(words)?;
    before.expect_untouched()?;
    program.finish()
}
