//! An exception, a cancelled thread and a backtrace get through new code as they got through the
//! old one, at every point of a patch's life; and libgcc, which helps with that, has its own bytes
//! back in the end.

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Engraft, Program, Snapshot, Victim, exit, has_tool};
use serde_json::Value;

use crate::{engraft, victims};

/// The victim; `None` where C++ cannot be compiled.
fn build(test: &str, make_arguments: &[&str]) -> Result<Option<Victim>> {
    if !has_tool(test, "g++")? {
        return Ok(None);
    }
    Victim::build_with(&victims().join("passing"), make_arguments).map(Some)
}

/// Nothing gets lost on its way, and the functions are those of this version.
fn all_gets_through(program: &mut Program, version: u32) -> Result<()> {
    program.expect("ask", &format!("{version}{version}{version}1"))?;
    for _ in 0..3 {
        program.expect("throw", "caught")?;
    }
    program.expect("trace", "as far as main")?;
    program.expect("sleep", "inside")?;
    program.expect("cancel", "cleaned up")?;
    program.expect("enter", "inside")?;
    program.expect("leave", "caught")
}

/// The unwinders of the process, as (file name, failure).
fn unwinders(engraft: &Engraft, pid: u32) -> Result<Vec<(String, Value)>> {
    let status = engraft.status(pid)?;
    let list = status["unwinders"].as_array().context("no list")?;
    let name = |path: &Value| {
        let path = path.as_str().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default().to_owned()
    };
    Ok(list
        .iter()
        .map(|it| (name(&it["path"]), it["failure"].clone()))
        .collect())
}

fn remove(engraft: &Engraft, what: &str, pid: u32) -> Result<()> {
    let arguments = ["remove", what, "--timeout", "50", "--pid", &pid.to_string()];
    engraft.run(arguments)?.exits(exit::OK).map(drop)
}

/// Two patches come, one on top of the other, and go again.
fn there_and_back(
    test: &str,
    make_arguments: &[&str],
    expected: &[(&str, Option<&str>)],
) -> Result<()> {
    let engraft = engraft();
    let Some(victim) = build(test, make_arguments)? else {
        return Ok(());
    };
    let fix = victim.patch(&engraft, "fix.patch", "fix", &["passing"])?;
    let second = victim.patch(&engraft, "second.patch", "second", &["passing"])?;
    let mut program = victim.start("passing", &[])?;
    let pid = program.pid();
    all_gets_through(&mut program, 1)?;
    let before = Snapshot::take(pid)?;
    for _ in 0..2 {
        engraft.apply(&fix, pid)?.exits(exit::OK)?;
        all_gets_through(&mut program, 2)?;
        let expected: Vec<_> = expected
            .iter()
            .map(|&(name, failure)| (name.to_owned(), failure.map_or(Value::Null, Value::from)))
            .collect();
        ensure!(
            unwinders(&engraft, pid)? == expected,
            "{:?}",
            engraft.status(pid)?
        );
        engraft.apply(&second, pid)?.exits(exit::OK)?;
        all_gets_through(&mut program, 3)?;
        engraft.disable("fix", pid)?.exits(exit::OK)?;
        remove(&engraft, "fix", pid)?;
        all_gets_through(&mut program, 3)?;
        engraft.disable("second", pid)?.exits(exit::OK)?;
        before.expect_same_text()?;
        all_gets_through(&mut program, 1)?;
        remove(&engraft, "second", pid)?;
        remove(&engraft, "--agent", pid)?;
        before.expect_same_text()?;
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        ensure!(!maps.contains("memfd:engraft"), "left: {maps}");
        all_gets_through(&mut program, 1)?;
    }
    program.finish()
}

#[test]
fn through_functions_in_c() -> Result<()> {
    there_and_back("through_functions_in_c", &[], &[("libgcc_s.so.1", None)])
}

/// The program has libgcc inside, and its symbols say where.
#[test]
fn in_a_static_program() -> Result<()> {
    there_and_back("in_a_static_program", &["LINK=-static"], &[("", None)])
}

/// Call frame information has absolute addresses there.
#[test]
fn in_a_position_dependent_program() -> Result<()> {
    there_and_back(
        "in_a_position_dependent_program",
        &["KIND=-fno-pie", "LINK=-no-pie"],
        &[("libgcc_s.so.1", None)],
    )
}

/// As programs are linked that are to run on many distributions: what they throw is theirs, and
/// what glibc cancels goes through a libgcc of its own.
#[test]
fn with_an_unwinder_of_its_own() -> Result<()> {
    there_and_back(
        "with_an_unwinder_of_its_own",
        &["LINK=-static-libgcc -static-libstdc++"],
        &[("", None), ("libgcc_s.so.1", None)],
    )
}

/// While a thread holds the transition up, it throws through old code by way of trampolines, and
/// all others through the new one; in both directions.
#[test]
fn in_a_transition() -> Result<()> {
    let engraft = engraft();
    let Some(victim) = build("in_a_transition", &[])? else {
        return Ok(());
    };
    let fix = victim.patch(&engraft, "fix.patch", "fix", &["passing"])?;
    let mut program = victim.start("passing", &[])?;
    let pid = program.pid();
    let before = Snapshot::take(pid)?;
    let pid_text = pid.to_string();
    let fix = fix.display().to_string();
    for (command, what, during) in [("apply", &*fix, 2), ("disable", "fix", 1)] {
        program.expect("enter", "inside")?;
        engraft
            .run([command, what, "--timeout", "0", "--pid", &pid_text])?
            .exits(exit::TARGET_BUSY)?;
        program.expect("ask", &format!("{during}{during}{during}1"))?;
        program.expect("throw", "caught")?;
        program.expect("trace", "as far as main")?;
        program.expect("leave", "caught")?;
        engraft
            .run(["wait", "--timeout", "50", "--pid", &pid_text])?
            .exits(exit::OK)?;
        all_gets_through(&mut program, during)?;
    }
    before.expect_same_text()?;
    program.finish()
}

/// libgcc comes when the command has ended: with a library in C++, for a backtrace, or by itself;
/// and goes again.
#[test]
fn with_a_libgcc_that_is_loaded_later() -> Result<()> {
    let engraft = engraft();
    let Some(victim) = build("with_a_libgcc_that_is_loaded_later", &[])? else {
        return Ok(());
    };
    let fix = victim.patch(&engraft, "fix.patch", "fix", &["late", "passing"])?;
    let library = format!("open {}", victim.file("library.so").display());
    for way in ["backtrace", "library"] {
        let mut program = victim.start("late", &[])?;
        let pid = program.pid();
        program.expect("libgcc", "not loaded")?;
        engraft.apply(&fix, pid)?.exits(exit::OK)?;
        program.expect("ask", "221")?;
        ensure!(unwinders(&engraft, pid)?.is_empty());
        for _ in 0..3 {
            program.expect("open libgcc_s.so.1", "opened")?;
            ensure!(unwinders(&engraft, pid)? == [("libgcc_s.so.1".to_owned(), Value::Null)]);
            program.expect("close", "closed")?;
            program.expect("libgcc", "not loaded")?;
            ensure!(unwinders(&engraft, pid)?.is_empty());
        }
        if way == "backtrace" {
            program.expect("trace", "as far as main")?;
        }
        program.expect(&library, "opened")?;
        for _ in 0..3 {
            program.expect("throw", "caught")?;
        }
        program.expect("trace", "as far as main")?;
        engraft.disable("fix", pid)?.exits(exit::OK)?;
        program.expect("ask", "111")?;
        program.expect("throw", "caught")?;
        program.expect("trace", "as far as main")?;
        let text = Snapshot::take(pid)?;
        ensure!(
            text.text_bytes_unlike_files()? == 0,
            "code that is not that of its file"
        );
        remove(&engraft, "fix", pid)?;
        remove(&engraft, "--agent", pid)?;
        program.expect("throw", "caught")?;
        program.finish()?;
    }
    Ok(())
}
