//! `engraft check` says everything that would keep a patch out, ends as `apply` would, and touches
//! nothing.

use std::path::Path;

use anyhow::{Result, ensure};
use engraft_testkit::{Engraft, Outcome, Program, Snapshot, Victim, elf, exit};

use crate::{engraft, victim, victims};

fn check(engraft: &Engraft, patch: &Path, pid: u32) -> Result<Outcome> {
    let mut check = engraft.command(["check"]);
    check.arg(patch).args(["--pid", &pid.to_string()]);
    engraft_testkit::run(&mut check, engraft_testkit::TIME_LIMIT)
}

/// That a dry run says the words and ends with the code, that it touched nothing, and that apply
/// ends so too.
fn expect(patch: &Path, program: &Program, code: i32, words: &[&str]) -> Result<Outcome> {
    let engraft = engraft();
    let before = Snapshot::take(program.pid())?;
    let outcome = check(&engraft, patch, program.pid())?
        .exits(code)?
        .says(words)?;
    before.expect_untouched()?;
    engraft.apply(patch, program.pid())?.exits(code)?;
    Ok(outcome)
}

#[test]
fn what_can_be_applied() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("host")?);
    let patch = victim.patch(&engraft, "p1.patch", "p1", &["host", "library.so"])?;
    let next = victim.patch(&engraft, "p2.patch", "p2", &["host", "library.so"])?;
    let mut program = victim.start("host", &[])?;
    let words = ["can be applied", "library.so", "waits"];
    expect(&patch, &program, exit::OK, &words)?;
    // On top of the first one, whose jump is where the second one's code is compared.
    let outcome = check(&engraft, &next, program.pid())?.exits(exit::OK)?;
    outcome.says(&["can be applied"])?;
    let again = check(&engraft, &patch, program.pid())?.exits(exit::OK)?;
    again.says(&["already applied"])?;
    ensure!(engraft.patches(program.pid())? == ["p1"]);
    program.expect("ask", "a=101 b=-")?;
    program.finish()
}

#[test]
fn another_build() -> Result<()> {
    let engraft = engraft();
    let patch_for = victim("workers")?;
    let patch = patch_for.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let other = Victim::build_with(&victims().join("workers"), &["FLAVOUR=-O1"])?;
    let wanted = elf::build_id(&patch_for.file("workers"))?;
    let found = elf::build_id(&other.file("workers"))?;
    let program = other.start("workers", &["1"])?;
    let words = [wanted.as_str(), &found, "hint:"];
    expect(&patch, &program, exit::DOES_NOT_FIT, &words)?;
    program.finish()
}

#[test]
fn other_code() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    elf::copy_with_other_code(&victim.file("workers"), &victim.file("edited"), "price", 0)?;
    // The edited function would crash the program, which never calls it.
    let program = victim.start("edited", &["0"])?;
    let words = ["price", "differs", "hint:"];
    expect(&patch, &program, exit::DOES_NOT_FIT, &words)?;
    program.finish()
}

/// The compiler keeps what is unlikely in a part of its own.
#[test]
fn a_function_whose_two_parts_differ_is_told_once() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("unlikely")?);
    let patch = victim.patch(&engraft, "fix.patch", "rare", &["unlikely"])?;
    let file = |name| victim.file(name);
    elf::copy_with_other_code(&file("unlikely"), &file("half"), "rare", 0)?;
    elf::copy_with_other_code(&file("half"), &file("edited"), "rare.cold", 0)?;
    let program = victim.start("edited", &[])?;
    let outcome = expect(&patch, &program, exit::DOES_NOT_FIT, &["rare", "differs"])?;
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    ensure!(said.matches("'rare'").count() == 1, "it said: {said}");
    program.finish()
}

#[test]
fn a_symbol_that_nobody_defines() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("missing")?);
    let patch = victim.patch(&engraft, "fix.patch", "root", &["missing"])?;
    let mut program = victim.start("missing", &[])?;
    expect(&patch, &program, exit::DOES_NOT_FIT, &["cbrt"])?;
    program.expect("27", "9")?;
    program.finish()
}

#[test]
fn another_tracer() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("traced")?);
    let patch = victim.patch(&engraft, "fix.patch", "answer", &["traced"])?;
    let (tracer, traced) = Program::start::<&str>(&victim.file("traced"), &[])?;
    let words = [traced.as_str(), &tracer.pid().to_string()];
    let outcome = check(&engraft, &patch, traced.parse()?)?;
    outcome.exits(exit::NOT_PATCHABLE)?.says(&words)?;
    tracer.finish()
}

#[test]
fn no_such_process_and_no_patch_file() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let absent = std::fs::read_to_string("/proc/sys/kernel/pid_max")?;
    let absent = absent.trim();
    let outcome = check(&engraft, &patch, absent.parse()?)?;
    outcome.exits(exit::NO_SUCH_PROCESS)?.says(&[absent])?;
    let program = victim.start("workers", &["0"])?;
    let outcome = check(&engraft, &victim.file("workers.c"), program.pid())?;
    outcome.exits(exit::BAD_PATCH_FILE)?.says(&["workers.c"])?;
    program.finish()
}
