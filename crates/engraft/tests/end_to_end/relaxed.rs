//! What the linker makes of code that was compiled to go through the GOT, calls, jumps, addresses
//! and thread-local variables, is recognised; and new code that refers to the same things in the
//! same ways, or in others, finds them.

use anyhow::{Context as _, Result};
use engraft_testkit::{Snapshot, Victim, exit, has_tool};

use crate::{engraft, victims};

/// How the program is compiled and linked, and how that is said.
const KINDS: [[&str; 2]; 6] = [
    ["-fPIE", "-pie"],
    ["-fPIC", "-pie"],
    ["-fno-pie", "-no-pie"],
    ["-fPIC", "-no-pie"],
    ["-fPIC", "-static"],
    ["-fPIC -O0", "-static-pie"],
];

#[test]
fn by_bfd() -> Result<()> {
    linked_by("bfd", "gcc")
}

#[test]
fn by_gold() -> Result<()> {
    linked_by("gold", "gcc")
}

#[test]
fn by_lld() -> Result<()> {
    linked_by("lld", "gcc")
}

#[test]
fn by_lld_for_clang() -> Result<()> {
    linked_by("lld", "clang")
}

fn linked_by(linker: &str, compiler: &str) -> Result<()> {
    for tool in [&format!("ld.{linker}"), compiler] {
        if !has_tool(&format!("relaxed: {compiler} and {linker}"), tool)? {
            return Ok(());
        }
    }
    for [compile, link] in KINDS {
        if linker == "gold" && link == "-static-pie" {
            continue; // It does not know of such programs.
        }
        let what = format!("{compiler} {compile} {link} -fuse-ld={linker}");
        there_and_back(
            &format!("CC={compiler}"),
            &format!("KIND={compile}"),
            &format!("LINK={link} -fuse-ld={linker}"),
        )
        .context(what)?;
    }
    Ok(())
}

fn there_and_back(compiler: &str, compile: &str, link: &str) -> Result<()> {
    let engraft = engraft();
    let make_arguments = [compiler, compile, link];
    let victim = Victim::build_with(&victims().join("relaxed"), &make_arguments)?;
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["relaxed"])?;
    let mut program = victim.start("relaxed", &[])?;
    program.expect("70001", "old")?;
    let before = Snapshot::take(program.pid())?;
    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    program.expect("70002", "new")?;
    program.expect("70003", "new")?;
    engraft.disable("fix", program.pid())?.exits(exit::OK)?;
    program.expect("70004", "old")?;
    before.expect_same_text()?;
    program.finish()
}
