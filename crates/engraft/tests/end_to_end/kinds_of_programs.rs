//! Programs of every kind that compilers and linkers make get new code, and their own bytes back,
//! without having been prepared for it.

use anyhow::{Result, ensure};
use engraft_testkit::{Program, Snapshot, Victim, exit, has_tool};

use crate::{engraft, victims};

/// What Debian's musl-gcc gives to gcc.
const MUSL_SPECS: &str = "/usr/lib/x86_64-linux-musl/musl-gcc.specs";

#[test]
fn position_dependent() -> Result<()> {
    patched_and_back(&["KIND=-fno-pie", "LINK=-no-pie"])
}

/// A static program has no loader, so there is nothing to hook.
#[test]
fn linked_statically() -> Result<()> {
    patched_and_back(&["KIND=-fno-pie", "LINK=-static"])
}

#[test]
fn linked_statically_and_position_independent() -> Result<()> {
    patched_and_back(&["KIND=-fPIE", "LINK=-static-pie"])
}

/// The landing pads of indirect calls stay where they are.
#[test]
fn with_branch_protection() -> Result<()> {
    patched_and_back(&["KIND=-fcf-protection=full"])
}

#[test]
fn without_branch_protection() -> Result<()> {
    patched_and_back(&["KIND=-fcf-protection=none"])
}

/// All imports are bound at start, and the tables are read-only then.
#[test]
fn bound_at_start() -> Result<()> {
    patched_and_back(&["LINK=-Wl,-z,relro,-z,now", "KIND=-fno-plt"])
}

#[test]
fn built_by_clang() -> Result<()> {
    match has_tool("built_by_clang", "clang")? {
        true => patched_and_back(&["CC=clang"]),
        false => Ok(()),
    }
}

#[test]
fn built_for_musl() -> Result<()> {
    for_musl("built_for_musl", "LINK=")
}

#[test]
fn built_for_musl_and_linked_statically() -> Result<()> {
    for_musl("built_for_musl_and_linked_statically", "LINK=-static")
}

/// As musl-gcc calls gcc.
fn for_musl(test: &str, link: &str) -> Result<()> {
    match has_tool(test, "musl-gcc")? {
        true => patched_and_back(&[&format!("CC=gcc -specs={MUSL_SPECS}"), link]),
        false => Ok(()),
    }
}

/// Distributions ship programs without symbols; the patch is made from the build with symbols.
#[test]
fn stripped_and_patched_by_the_symbols_of_the_build() -> Result<()> {
    let victim = Victim::build_with(&victims().join("answer"), &[])?;
    there_and_back(&victim, "answer", "stripped")
}

/// The same where nobody has the symbols: the functions are found by their code.
#[test]
fn stripped_and_patched_without_symbols() -> Result<()> {
    let victim = Victim::build_with(&victims().join("answer"), &[])?;
    there_and_back(&victim, "stripped", "stripped")
}

fn patched_and_back(make_arguments: &[&str]) -> Result<()> {
    let victim = Victim::build_with(&victims().join("answer"), make_arguments)?;
    there_and_back(&victim, "answer", "answer")
}

/// Applies a patch made for `binary` to `program`, disables it, and does both once more.
fn there_and_back(victim: &Victim, binary: &str, program: &str) -> Result<()> {
    let engraft = engraft();
    let patch = victim.patch(&engraft, "fix.patch", "fix", &[binary])?;
    let mut program: Program = victim.start(program, &[])?;
    let pid = program.pid();
    program.expect("seven", "old: seven, 1")?;
    let before = Snapshot::take(pid)?;
    ensure!(before.text_bytes() > 0, "a program without code");
    for round in [2, 4] {
        engraft.apply(&patch, pid)?.exits(exit::OK)?;
        program.expect("seven", &format!("new: seven, {round}"))?;
        ensure!(engraft.patches(pid)? == ["fix"]);
        engraft.disable("fix", pid)?.exits(exit::OK)?;
        program.expect("seven", &format!("old: seven, {}", round + 1))?;
        before.expect_same_text()?;
    }
    program.finish()
}

/// The part of a Rust program that is in C.
#[test]
fn built_by_rustc_and_patched_in_c() -> Result<()> {
    let engraft = engraft();
    let victim = Victim::build_with(&victims().join("rust"), &[])?;
    let patch = victim.patch(&engraft, "c.patch", "c", &["rust"])?;
    let mut program = victim.start("rust", &[])?;
    let pid = program.pid();
    program.expect("1", "c=101 rust=201")?;
    let before = Snapshot::take(pid)?;
    for _ in 0..2 {
        engraft.apply(&patch, pid)?.exits(exit::OK)?;
        program.expect("1", "c=102 rust=201")?;
        engraft.disable("c", pid)?.exits(exit::OK)?;
        program.expect("1", "c=101 rust=201")?;
        before.expect_same_text()?;
    }
    program.finish()
}

/// No patch is made of Rust sources yet, and "nothing to patch" is not the word for that.
#[test]
fn rust_sources_are_refused() -> Result<()> {
    let engraft = engraft();
    let victim = Victim::build_with(&victims().join("rust"), &[])?;
    let (outcome, file) = victim.try_patch(&engraft, "rust.patch", "rust", &["rust"])?;
    outcome.exits(exit::BUILD_FAILED)?.says(&["main.rs"])?;
    ensure!(!file.exists(), "there is a patch all the same");
    Ok(())
}
