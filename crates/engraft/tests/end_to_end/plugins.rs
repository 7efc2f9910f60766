//! The ways in which libraries come and go: each is patched before any of its code runs, as long as
//! it is there, and has its own bytes back when the patch has gone.

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Engraft, Program, Snapshot, Victim, elf, exit};

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

fn comes_late(open: &str, library: &str, fix: &str, patched: &str) -> Result<()> {
    comes_and_goes(&victim("plugins")?, open, library, fix, patched)
}

/// Twice: applied before the library comes and again when it is there.
pub(crate) fn comes_and_goes(
    victim: &Victim,
    open: &str,
    library: &str,
    fix: &str,
    patched: &str,
) -> Result<()> {
    let engraft = engraft();
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
    ensure!(
        Snapshot::take(pid)?.text_bytes_unlike_files()? == 0,
        "some code is not that of its file"
    );

    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect("ask", "answer=101")?;
    engraft.disable(fix, pid)?.exits(exit::OK)?;
    program.expect("ask", "answer=100")?;
    program.finish()
}

#[test]
fn with_a_resolver_that_runs_patched_code() -> Result<()> {
    resolves(&victim("plugins")?)
}

/// The resolver of an IFUNC asks a function that is patched, while the loader relocates.
pub(crate) fn resolves(victim: &Victim) -> Result<()> {
    let engraft = engraft();
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

#[test]
fn in_two_namespaces_before_the_patch() -> Result<()> {
    is_there_twice(&victim("plugins")?)
}

/// The patch finds the library in the program's namespace and in another one.
pub(crate) fn is_there_twice(victim: &Victim) -> Result<()> {
    let engraft = engraft();
    let patch = victim.patch(&engraft, "deep.patch", "deep", &["libdeep.so"])?;
    let mut program = victim.start("plugins", &[])?;
    let pid = program.pid();
    let [open, apart] = ["open", "apart"]
        .map(|command| format!("{command} {}", victim.file("needing.so").display()));
    let both_answer = |program: &mut Program, answer: &str| {
        program.expect("ask", answer)?;
        program.expect("switch", "switched")?;
        program.expect("ask", answer)?;
        program.expect("switch", "switched")
    };
    program.expect(&open, "opened")?;
    program.expect("switch", "switched")?;
    program.expect(&apart, "opened")?;
    both_answer(&mut program, "answer=100")?;

    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    both_answer(&mut program, "answer=101")?;
    ensure!(patched_modules(&engraft, pid)? == 2, "not both are listed");
    program.expect("close", "closed")?;
    ensure!(patched_modules(&engraft, pid)? == 1, "not one is listed");
    program.expect(&apart, "opened")?;
    both_answer(&mut program, "answer=101")?;

    engraft.disable("deep", pid)?.exits(exit::OK)?;
    both_answer(&mut program, "answer=100")?;
    ensure!(
        Snapshot::take(pid)?.text_bytes_unlike_files()? == 0,
        "some code is not that of its file"
    );
    program.finish()
}

/// How many modules `status` lists as patched, under the only patch and its only object.
fn patched_modules(engraft: &Engraft, pid: u32) -> Result<usize> {
    let status = engraft.status(pid)?;
    let modules = &status["patches"][0]["objects"][0]["modules"];
    let modules = modules.as_array().context("the status lists no modules")?;
    Ok(modules.iter().filter(|it| it["patched"] == true).count())
}

#[test]
fn refused_in_a_namespace_of_its_own() -> Result<()> {
    is_refused_apart(&victim("plugins")?)
}

/// dlmopen fails, again and again, and leaves nothing behind; a good library still comes in.
pub(crate) fn is_refused_apart(victim: &Victim) -> Result<()> {
    let engraft = engraft();
    let patch = victim.patch(&engraft, "local.patch", "local", &["local.so"])?;
    let (good, damaged) = (victim.file("local.so"), victim.file("damaged.so"));
    // The operand of the `mov` in answer(): the copy says 101 without any patch.
    elf::copy_with_other_code(&good, &damaged, "answer", 4)?;
    let [good, damaged] = [good, damaged].map(|file| format!("apart {}", file.display()));
    let mut program = victim.start("plugins", &[])?;
    let pid = program.pid();
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    let refused = |program: &mut Program| {
        let refusal = program.ask(&damaged)?;
        let named = refusal.contains("'local'") && refusal.contains("code");
        ensure!(named, "the refusal was {refusal:?}");
        Ok(())
    };
    refused(&mut program)?;
    // The first time may have filled caches of the loader and of libc; from then on nothing stays.
    let before = Snapshot::take(pid)?;
    refused(&mut program)?;
    refused(&mut program)?;
    before.expect_untouched()?;
    for _ in 0..2 {
        program.expect(&good, "opened")?;
        program.expect("seen", "seen=101")?;
        program.expect("ask", "answer=101")?;
        program.expect("close", "closed")?;
        refused(&mut program)?;
    }
    program.finish()
}
