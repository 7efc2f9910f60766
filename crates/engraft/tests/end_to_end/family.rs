//! Processes that fork: a child of a patched parent is patched; parent and child are patched and
//! unpatched each on its own; a vfork in flight is waited for, and then named.

use anyhow::{Result, ensure};
use engraft_testkit::{Program, Snapshot, exit};

use crate::{engraft, victim};

#[test]
fn a_child_of_a_patched_parent_is_patched() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("family")?);
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["family"])?;
    let mut program = victim.start("family", &[])?;
    let parent = program.pid();
    let (original, patched) = (Snapshot::take(parent)?, |program: &mut Program| {
        program.expect("ask", "a=101")
    });
    engraft.apply(&patch, parent)?.exits(exit::OK)?;
    patched(&mut program)?;

    let child: u32 = program.ask("fork")?.parse()?;
    program.expect("ask child", "a=101")?;
    ensure!(engraft.patches(child)? == ["fix"]);
    engraft
        .apply(&patch, child)?
        .exits(exit::OK)?
        .says(&["already"])?;

    // Each on its own.
    engraft.disable("fix", child)?.exits(exit::OK)?;
    program.expect("ask child", "a=100")?;
    patched(&mut program)?;
    engraft.apply(&patch, child)?.exits(exit::OK)?;
    program.expect("ask child", "a=101")?;
    engraft.disable("fix", parent)?.exits(exit::OK)?;
    program.expect("ask child", "a=101")?;
    program.expect("ask", "a=100")?;
    original.expect_same_text()?;
    program.finish()
}

#[test]
fn a_child_from_before_is_a_process_of_its_own() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("family")?);
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["family"])?;
    let mut program = victim.start("family", &[])?;
    let child: u32 = program.ask("fork")?.parse()?;
    let before = Snapshot::take(child)?;
    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    before.expect_untouched()?;
    program.expect("ask child", "a=100")?;
    engraft.apply(&patch, child)?.exits(exit::OK)?;
    program.expect("ask child", "a=101")?;
    engraft.disable("fix", program.pid())?.exits(exit::OK)?;
    program.expect("ask", "a=100")?;
    program.expect("ask child", "a=101")?;
    engraft.disable("fix", child)?.exits(exit::OK)?;
    program.expect("ask child", "a=100")?;
    before.expect_same_text()?;
    program.finish()
}

/// The kernel lets nobody stop a thread whose child borrows its memory.
#[test]
fn a_vfork_in_flight() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("family")?);
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["family"])?;
    let mut program = victim.start("family", &[])?;
    let pid = program.pid();
    program.expect("vfork", "held")?;
    let before = Snapshot::take(pid)?;
    engraft
        .apply(&patch, pid)?
        .exits(exit::TARGET_BUSY)?
        .says(&["vfork"])?;
    before.expect_same_text()?;
    program.expect("ask", "a=100")?;

    program.expect("release", "released")?;
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect("ask", "a=101")?;
    engraft.disable("fix", pid)?.exits(exit::OK)?;
    program.expect("ask", "a=100")?;
    before.expect_same_text()?;
    program.finish()
}
