//! What is on disk does not matter: the program's file, or its library's, may be deleted, replaced
//! by another build, or never have been there under this path.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use engraft_testkit::{Program, Snapshot, TIME_LIMIT, Victim, exit, is_root, run, skip};

use crate::{engraft, victim, victims};

#[test]
fn the_program_is_deleted() -> Result<()> {
    let victim = victim("answer")?;
    let patch = victim.patch(&engraft(), "fix.patch", "fix", &["answer"])?;
    let mut program = victim.start("answer", &[])?;
    fs::remove_dir_all(victim.built())?;
    let pid = program.pid();
    there_and_back(&mut program, pid, &patch)?;
    program.finish()
}

#[test]
fn the_program_is_replaced_by_another_build() -> Result<()> {
    let victim = victim("answer")?;
    let patch = victim.patch(&engraft(), "fix.patch", "fix", &["answer"])?;
    let mut program = victim.start("answer", &[])?;
    let other = Victim::build_with(&victims().join("answer"), &["KIND=-O1"])?;
    // A file that is executed cannot be written to; updates put another one in its place.
    fs::copy(other.file("answer"), victim.file("update"))?;
    fs::rename(victim.file("update"), victim.file("answer"))?;
    let pid = program.pid();
    there_and_back(&mut program, pid, &patch)?;
    program.finish()
}

#[test]
fn a_library_is_deleted() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("needed")?);
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["libgreet.so"])?;
    let mut program = victim.start("program", &[])?;
    fs::remove_file(victim.file("libgreet.so"))?;
    let before = Snapshot::take(program.pid())?;
    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    program.expect("Ada", "Welcome, Ada!")?;
    engraft.disable("fix", program.pid())?.exits(exit::OK)?;
    program.expect("Ada", "Goodbye, Ada")?;
    before.expect_same_text()?;
    program.finish()
}

/// In its own mount namespace the program's file is on a file system that nobody else sees. A
/// library from there is patched when it is loaded.
#[test]
fn another_mount_namespace() -> Result<()> {
    if !may_unshare("another_mount_namespace")? {
        return Ok(());
    }
    let (engraft, victim) = (engraft(), victim("host")?);
    let patch = victim.patch(&engraft, "p1.patch", "p1", &["host", "library.so"])?;
    let hidden = victim.file("hidden");
    fs::create_dir(&hidden)?;
    let script = "mount -t tmpfs none hidden && cp host library.so hidden && exec $PWD/hidden/host";
    let mut program = unshared(&victim, &["--mount", "sh", "-c", script])?;
    let pid = program.pid();
    anyhow::ensure!(
        fs::read_dir(&hidden)?.next().is_none(),
        "the files are visible"
    );
    let before = Snapshot::take(pid)?;
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect("ask", "a=101 b=-")?;
    program.expect(
        &format!("open {}", hidden.join("library.so").display()),
        "opened",
    )?;
    program.expect("seen", "b=101")?;
    program.expect("ask", "a=101 b=101")?;
    engraft.disable("p1", pid)?.exits(exit::OK)?;
    program.expect("ask", "a=100 b=100")?;
    before.expect_same_text()?;
    program.finish()
}

/// Nothing there but the program and what it is linked with: no /proc either.
#[test]
fn a_chroot() -> Result<()> {
    if !may_unshare("a_chroot")? {
        return Ok(());
    }
    let victim = victim("answer")?;
    let patch = victim.patch(&engraft(), "fix.patch", "fix", &["answer"])?;
    let root = victim.file("root");
    copy_with_libraries(&victim.file("answer"), &root)?;
    let root = root.to_str().context("a path that is no text")?;
    let arguments = ["--mount", "chroot", root, "/answer"];
    let mut program = unshared(&victim, &arguments)?;
    let pid = program.pid();
    there_and_back(&mut program, pid, &patch)?;
    program.finish()
}

/// There, the process has the number 1.
#[test]
fn another_pid_namespace() -> Result<()> {
    if !may_unshare("another_pid_namespace")? {
        return Ok(());
    }
    let (engraft, victim) = (engraft(), victim("host")?);
    let patch = victim.patch(&engraft, "p1.patch", "p1", &["host", "library.so"])?;
    let arguments = ["--pid", "--fork", "--kill-child", "--mount-proc", "./host"];
    let mut program = unshared(&victim, &arguments)?;
    // What unshare has forked.
    let parent = program.pid();
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    let pid = children.trim().parse()?;
    let before = Snapshot::take(pid)?;
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect(
        &format!("open {}", victim.file("library.so").display()),
        "opened",
    )?;
    program.expect("ask", "a=101 b=101")?;
    engraft.disable("p1", pid)?.exits(exit::OK)?;
    program.expect("ask", "a=100 b=100")?;
    before.expect_same_text()?;
    program.finish()
}

fn there_and_back(program: &mut Program, pid: u32, patch: &Path) -> Result<()> {
    let engraft = engraft();
    program.expect("seven", "old: seven, 1")?;
    let before = Snapshot::take(pid)?;
    engraft.apply(patch, pid)?.exits(exit::OK)?;
    program.expect("seven", "new: seven, 2")?;
    engraft.disable("fix", pid)?.exits(exit::OK)?;
    program.expect("seven", "old: seven, 3")?;
    before.expect_same_text()
}

fn may_unshare(test: &str) -> Result<bool> {
    if !is_root()? {
        skip(test, "only root can make namespaces");
        return Ok(false);
    }
    let mut try_it = std::process::Command::new("unshare");
    let tried = run(
        try_it.args(["--mount", "--pid", "--fork", "true"]),
        TIME_LIMIT,
    );
    if !matches!(&tried, Ok(outcome) if outcome.code == Some(exit::OK)) {
        skip(test, &format!("unshare does not work here: {tried:?}"));
        return Ok(false);
    }
    Ok(true)
}

/// A program of the victim, started from its directory through unshare.
fn unshared(victim: &Victim, arguments: &[&str]) -> Result<Program> {
    let directory = victim.built();
    let directory = directory.to_str().context("a path that is no text")?;
    let through = [&["--chdir", directory, "unshare"], arguments].concat();
    Ok(Program::start(Path::new("env"), &through)?.0)
}

/// Copies a program to the top of `root` and its libraries to where they are outside.
fn copy_with_libraries(program: &Path, root: &Path) -> Result<()> {
    fs::create_dir(root)?;
    fs::copy(
        program,
        root.join(program.file_name().context("no file name")?),
    )?;
    let listed =
        run(std::process::Command::new("ldd").arg(program), TIME_LIMIT)?.exits(exit::OK)?;
    for word in listed
        .stdout
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let copy = root.join(word.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().context("no directory")?)?;
        fs::copy(word, copy)?;
    }
    Ok(())
}
