//! The ways in which libraries come and go: each is patched before any of its code runs, as long as it
//! is there, and has its own bytes back when the patch has gone.

use anyhow::Result;
use engraft_testkit::{Program, Snapshot, Victim, exit};

use crate::{engraft, victim};

/// A namespace of its own, made by dlmopen.
#[test]
fn in_a_namespace_of_its_own() -> Result<()> {
    comes_late("apart", "needing.so", "deep", "libdeep.so")
}

/// The patched one is a dependency of the one that is opened.
#[test]
fn needed_by_another_library() -> Result<()> {
    comes_late("open", "needing.so", "deep", "libdeep.so")
}

/// The loader keeps it although it is closed.
#[test]
fn never_unloaded() -> Result<()> {
    comes_late("keep", "needing.so", "deep", "libdeep.so")
}

#[test]
fn opened_by_a_constructor() -> Result<()> {
    comes_late("open", "nesting.so", "deep", "libdeep.so")
}

#[test]
fn closed_by_a_destructor() -> Result<()> {
    comes_late("open", "closing.so", "deep", "libdeep.so")
}

#[test]
fn with_a_variable_of_each_thread() -> Result<()> {
    comes_late("open", "local.so", "local", "local.so")
}

/// Twice: applied before the library comes and again when it is there.
fn comes_late(open: &str, library: &str, fix: &str, patched: &str) -> Result<()> {
    let (engraft, victim) = (engraft(), victim("plugins")?);
    let fix_file = format!("{fix}.patch");
    let patch = victim.patch(&engraft, &fix_file, fix, &[patched])?;
    let mut program: Program = victim.start("plugins", &[])?;
    let pid = program.pid();
    let open = format!("{open} {}", victim.file(library).display());
    let before = Snapshot::take(pid)?;
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    for _ in 0..2 {
        program.expect(&open, "opened")?;
        program.expect("seen", "seen=101")?;
        program.expect("ask", "answer=101")?;
        program.expect("close", "closed")?;
    }
    program.expect(&open, "opened")?;
    engraft.disable(fix, pid)?.exits(exit::OK)?;
    program.expect("ask", "answer=100")?;
    before.expect_same_text()?;
    anyhow::ensure!(
        Snapshot::take(pid)?.text_bytes_unlike_files()? == 0,
        "some code is not that of its file"
    );

    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect("ask", "answer=101")?;
    engraft.disable(fix, pid)?.exits(exit::OK)?;
    program.expect("ask", "answer=100")?;
    program.finish()
}

/// The resolver of an IFUNC asks a function that is patched, while the loader relocates.
#[test]
fn with_a_resolver_that_runs_patched_code() -> Result<()> {
    let (engraft, victim): (_, Victim) = (engraft(), victim("plugins")?);
    let patch = victim.patch(&engraft, "choosing.patch", "choosing", &["choosing.so"])?;
    let mut program = victim.start("plugins", &[])?;
    let pid = program.pid();
    let open = format!("open {}", victim.file("choosing.so").display());
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect(&open, "opened")?;
    program.expect("seen", "seen=101")?;
    program.expect("ask", "answer=101")?;
    program.expect("close", "closed")?;
    engraft.disable("choosing", pid)?.exits(exit::OK)?;
    program.expect(&open, "opened")?;
    program.expect("seen", "seen=100")?;
    program.finish()
}
