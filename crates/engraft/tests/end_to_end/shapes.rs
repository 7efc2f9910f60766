//! Functions that begin in many ways, all changed by one fix. A thread that is inside of one of
//! them calls all others and gets the old answers, right to the digit, while another thread gets
//! the new ones all the time; and whoever takes a function's address, old code or new, gets the
//! same one as ever.

use anyhow::{Result, ensure};
use engraft_testkit::{Snapshot, Victim, exit, has_tool};
use std::path::Path;

use crate::{engraft, victims};

#[test]
fn without_optimisation() -> Result<()> {
    old_and_new_at_once(&["KIND=-O0"])
}

#[test]
fn optimised() -> Result<()> {
    old_and_new_at_once(&["KIND=-O2"])
}

#[test]
fn optimised_for_size() -> Result<()> {
    old_and_new_at_once(&["KIND=-Os"])
}

#[test]
fn with_landing_pads() -> Result<()> {
    old_and_new_at_once(&["KIND=-O2 -fcf-protection=full"])
}

#[test]
fn with_landing_pads_without_optimisation() -> Result<()> {
    old_and_new_at_once(&["KIND=-O0 -fcf-protection=full"])
}

#[test]
fn position_dependent() -> Result<()> {
    old_and_new_at_once(&["KIND=-O2 -fno-pie -fcf-protection=none", "LINK=-no-pie"])
}

#[test]
fn linked_statically() -> Result<()> {
    old_and_new_at_once(&["KIND=-O2 -fno-pie", "LINK=-static"])
}

#[test]
fn with_frame_pointers_and_stack_protector() -> Result<()> {
    old_and_new_at_once(&["KIND=-O2 -fno-omit-frame-pointer -fstack-protector-strong"])
}

/// The linker makes direct calls of the indirect ones that the compiler gave it.
#[test]
fn without_a_linkage_table() -> Result<()> {
    old_and_new_at_once(&["KIND=-O2 -fno-plt"])
}

#[test]
fn without_a_linkage_table_by_other_linkers() -> Result<()> {
    for linker in ["gold", "lld"] {
        let tool = format!("ld.{linker}");
        if has_tool("shapes::without_a_linkage_table_by_other_linkers", &tool)? {
            old_and_new_at_once(&["KIND=-O2 -fno-plt", &format!("LINK=-fuse-ld={linker}")])?;
        }
    }
    Ok(())
}

#[test]
fn built_by_clang() -> Result<()> {
    match has_tool("shapes::built_by_clang", "clang")? {
        true => old_and_new_at_once(&["KIND=-O2", "CC=clang"]),
        false => Ok(()),
    }
}

fn old_and_new_at_once(make_arguments: &[&str]) -> Result<()> {
    let engraft = engraft();
    let victim = Victim::build_with(&victims().join("shapes"), make_arguments)?;
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["shapes"])?;
    let mut program = victim.start("shapes", &[])?;
    let pid = program.pid();
    let before = Snapshot::take(pid)?;
    program.expect("all", "old")?;
    bad(&program.ask("rounds 10")?, "new=0 ")?;
    program.expect("pointers", "equal")?;

    let timed = |what: &[&str]| {
        let pid = pid.to_string();
        engraft.run([what, &["--pid", &pid, "--timeout", "1"]].concat())
    };
    let file = text(&patch)?;
    program.expect("park", "inside")?;
    timed(&["apply", file])?.exits(exit::TARGET_BUSY)?;
    let status = engraft.status(pid)?;
    ensure!(
        status["transition"]["threads"][0]["function"] == "park",
        "{status}"
    );
    for _ in 0..3 {
        program.expect("all inside", "old")?;
        program.expect("all", "new")?;
        bad(&program.ask("rounds 30")?, "old=0 ")?;
        program.expect("pointers", "equal")?;
    }
    program.expect("leave", "0")?;
    engraft
        .run(["wait", "--pid", &pid.to_string(), "--timeout", "50"])?
        .exits(exit::OK)?;
    program.expect("pointers", "equal")?;

    // Backwards, with the thread in new code.
    program.expect("park", "inside")?;
    program.expect("all inside", "new")?;
    timed(&["disable", "fix"])?.exits(exit::TARGET_BUSY)?;
    for _ in 0..3 {
        program.expect("all inside", "new")?;
        program.expect("all", "old")?;
        bad(&program.ask("rounds 30")?, "new=0 ")?;
        program.expect("pointers", "equal")?;
    }
    program.expect("leave", "1000")?;
    engraft
        .run(["wait", "--pid", &pid.to_string(), "--timeout", "50"])?
        .exits(exit::OK)?;
    program.expect("all", "old")?;
    bad(&program.ask("rounds 10")?, "new=0 ")?;
    program.expect("pointers", "equal")?;
    before.expect_same_text()?;
    program.finish()
}

/// All rounds are of one version, and of which.
fn bad(rounds: &str, none: &str) -> Result<()> {
    ensure!(
        rounds.contains(none) && rounds.ends_with(" bad=0"),
        "{rounds}"
    );
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| anyhow::anyhow!("a path that is no text"))
}
