//! Threads that are hard to catch: without a first one, hundreds of them, born and gone all the
//! time, hit by signals all the time, in a handler on a stack of its own.
//!
//! `ENGRAFT_LONG_TESTS=1` makes the rounds with threads that come and go a hundred, and the
//! hundreds of threads a thousand.

use anyhow::{Result, ensure};
use engraft_testkit::{Program, Snapshot, exit};

use crate::{engraft, victim};

#[test]
fn the_first_thread_has_ended() -> Result<()> {
    rounds("leaderless", 2, |_| Ok(()))
}

#[test]
fn eight_threads_create_and_join_threads() -> Result<()> {
    let long = std::env::var_os("ENGRAFT_LONG_TESTS").is_some();
    rounds("churn", if long { 100 } else { 20 }, more)
}

#[test]
fn five_thousand_signals_a_second_with_restart() -> Result<()> {
    rounds("restart", 20, more)
}

#[test]
fn five_thousand_signals_a_second_without_restart() -> Result<()> {
    rounds("interrupt", 20, more)
}

#[test]
fn in_a_handler_on_an_alternate_stack() -> Result<()> {
    let mut inside = true;
    rounds("alternate", 4, |program| {
        // The later rounds are with a thread that has come back.
        if std::mem::take(&mut inside) {
            program.expect("leave", "left")?;
        }
        Ok(())
    })
}

#[test]
fn hundreds_of_threads() -> Result<()> {
    let long = std::env::var_os("ENGRAFT_LONG_TESTS").is_some();
    let count = if long { 1000 } else { 200 };
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let mut program = victim.start("workers", &[&count.to_string()])?;
    let pid = program.pid();
    program.expect("round", &format!("old={} new=0 wrong=0", count * 100))?;
    let before = Snapshot::take(pid)?;
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect("round", &format!("old=0 new={} wrong=0", count * 100))?;
    engraft.disable("cheap-apples", pid)?.exits(exit::OK)?;
    program.expect("round", &format!("old={} new=0 wrong=0", count * 100))?;
    before.expect_same_text()?;
    ensure!(
        program.threads()? == count + 1,
        "the program has other threads"
    );
    program.finish()
}

fn more(program: &mut Program) -> Result<()> {
    program.expect("more", "0 others")
}

/// Applies and disables a number of times, with `between` after each step.
fn rounds(
    kind: &str,
    count: usize,
    mut between: impl FnMut(&mut Program) -> Result<()>,
) -> Result<()> {
    let (engraft, victim) = (engraft(), victim("crowd")?);
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["crowd"])?;
    let (mut program, said) = Program::start(&victim.file("crowd"), &[kind])?;
    ensure!(said == "ready", "the program {said}");
    let pid = program.pid();
    program.expect("ask", "a=100")?;
    let before = Snapshot::take(pid)?;
    for _ in 0..count {
        engraft.apply(&patch, pid)?.exits(exit::OK)?;
        program.expect("ask", "a=101")?;
        between(&mut program)?;
        engraft.disable("fix", pid)?.exits(exit::OK)?;
        program.expect("ask", "a=100")?;
        between(&mut program)?;
    }
    before.expect_same_text()?;
    program.finish()
}
