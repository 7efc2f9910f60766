//! A thread that does not leave the function in time keeps the old code; all others have the new
//! one at once. The command and the status name it, and whoever comes next can wait for it, turn
//! back, or end it by force.

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Engraft, Program, TIME_LIMIT, Victim, exit, run};

use crate::{engraft, victim};

/// The program with a thread inside of what the patch replaces, and the patch in transition.
fn in_transition(engraft: &Engraft, victim: &Victim) -> Result<Program> {
    let patch = victim.patch(engraft, "fix.patch", "patience", &["linger"])?;
    let mut program = victim.start("linger", &[])?;
    let pid = program.pid().to_string();
    program.expect("version", "1")?;
    program.expect("enter", "inside")?;
    // The time-out is what is tested here; the thread stays inside however long it is.
    let mut apply = engraft.command(["apply"]);
    apply.arg(&patch).args(["--pid", &pid, "--timeout", "1"]);
    run(&mut apply, TIME_LIMIT)?
        .exits(exit::TARGET_BUSY)?
        .says(&["lingerer", "linger", "1 thread has yet to switch", "hint:"])?;
    Ok(program)
}

fn ask(engraft: &Engraft, what: &[&str], pid: u32) -> Result<engraft_testkit::Outcome> {
    engraft.run(what.iter().copied().chain(["--pid", &pid.to_string()]))
}

/// Number of the thread that is inside, according to the status.
fn holder(engraft: &Engraft, pid: u32) -> Result<i64> {
    let status = engraft.status(pid)?;
    let thread = &status["transition"]["threads"][0];
    ensure!(status["transition"]["waiting"] == 1, "{status}");
    ensure!(status["transition"]["seconds"].is_u64(), "{status}");
    ensure!(thread["name"] == "lingerer", "{status}");
    ensure!(thread["function"] == "linger", "{status}");
    ensure!(thread["reason"] == "sleeping", "{status}");
    thread["tid"].as_i64().context("no tid")
}

#[test]
fn everyone_else_has_the_new_code_at_once() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("linger")?);
    let mut program = in_transition(&engraft, &victim)?;
    let pid = program.pid();
    program.expect("version", "2")?;
    let status = engraft.status(pid)?;
    ensure!(status["patches"][0]["state"] == "enabling", "{status}");
    holder(&engraft, pid)?;
    ask(&engraft, &["status"], pid)?.exits(exit::OK)?.says(&[
        "in transition",
        "lingerer",
        "had still to return into",
        "linger",
    ])?;

    // The thread leaves the old function with the old answer; then it is found clear.
    program.expect("leave", "outside")?;
    ask(&engraft, &["wait"], pid)?.exits(exit::OK)?;
    let status = engraft.status(pid)?;
    ensure!(status["patches"][0]["state"] == "enabled", "{status}");
    ensure!(status["transition"].is_null(), "{status}");
    program.expect("enter", "inside")?;
    program.expect("leave", "outside")?;
    program.expect("version", "2")?;
    program.finish()
}

#[test]
fn waiting_says_when_the_time_is_up() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("linger")?);
    let mut program = in_transition(&engraft, &victim)?;
    let pid = program.pid();
    ask(&engraft, &["wait", "patience", "--timeout", "1"], pid)?
        .exits(exit::TARGET_BUSY)?
        .says(&["lingerer", "linger"])?;
    ask(&engraft, &["wait", "another"], pid)?.exits(exit::WRONG_STATE)?;
    program.expect("leave", "outside")?;
    // Applying the same patch again goes on with its transition.
    let patch = victim.patch(&engraft, "fix.patch", "patience", &["linger"])?;
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    ask(&engraft, &["wait"], pid)?.exits(exit::WRONG_STATE)?;
    program.expect("version", "2")?;
    program.finish()
}

#[test]
fn a_transition_is_turned_round_both_ways() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("linger")?);
    let mut program = in_transition(&engraft, &victim)?;
    let pid = program.pid();
    // The thread is in the old function, where it may stay now.
    engraft.disable("patience", pid)?.exits(exit::OK)?;
    program.expect("version", "1")?;
    let status = engraft.status(pid)?;
    ensure!(status["patches"][0]["state"] == "disabled", "{status}");
    ask(&engraft, &["enable", "patience", "--timeout", "1"], pid)?.exits(exit::TARGET_BUSY)?;
    program.expect("version", "2")?;
    program.expect("leave", "outside")?;
    ask(&engraft, &["wait"], pid)?.exits(exit::OK)?;
    program.expect("version", "2")?;

    // And backwards: a thread in the new function.
    program.expect("enter", "inside")?;
    ask(&engraft, &["disable", "patience", "--timeout", "1"], pid)?.exits(exit::TARGET_BUSY)?;
    program.expect("version", "1")?;
    let status = engraft.status(pid)?;
    ensure!(status["patches"][0]["state"] == "disabling", "{status}");
    ask(&engraft, &["enable", "patience"], pid)?.exits(exit::OK)?;
    program.expect("version", "2")?;
    program.expect("leave", "outside")?;
    engraft.disable("patience", pid)?.exits(exit::OK)?;
    program.expect("version", "1")?;
    program.finish()
}

#[test]
fn a_transition_is_ended_by_force() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("linger")?);
    let mut program = in_transition(&engraft, &victim)?;
    let pid = program.pid();
    ask(&engraft, &["force", "patience"], pid)?.exits(exit::OK)?;
    let status = engraft.status(pid)?;
    ensure!(status["patches"][0]["state"] == "enabled", "{status}");
    program.expect("version", "2")?;
    program.expect("leave", "outside")?;
    program.expect("enter", "inside")?;
    // A patch that was forced out stays in memory, and cannot come again.
    ask(&engraft, &["disable", "patience", "--timeout", "1"], pid)?.exits(exit::TARGET_BUSY)?;
    ask(&engraft, &["force", "patience"], pid)?.exits(exit::OK)?;
    program.expect("version", "1")?;
    ask(&engraft, &["remove", "patience"], pid)?.exits(exit::TARGET_BUSY)?;
    ask(&engraft, &["enable", "patience"], pid)?.exits(exit::TARGET_BUSY)?;
    program.expect("leave", "outside")?;
    program.expect("version", "1")?;
    ask(&engraft, &["force", "patience"], pid)?.exits(exit::WRONG_STATE)?;
    program.finish()
}

#[test]
fn another_patch_waits_for_the_transition() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("linger")?);
    let mut program = in_transition(&engraft, &victim)?;
    let pid = program.pid().to_string();
    let other = victim.patch(&engraft, "fix.patch", "another", &["linger"])?;
    let mut apply = engraft.command(["apply"]);
    apply.arg(&other).args(["--pid", &pid, "--timeout", "1"]);
    run(&mut apply, TIME_LIMIT)?
        .exits(exit::TARGET_BUSY)?
        .says(&["'another' has to wait", "patience", "lingerer"])?;
    program.expect("version", "2")?;
    program.expect("leave", "outside")?;
    engraft.apply(&other, program.pid())?.exits(exit::OK)?;
    ensure!(engraft.patches(program.pid())? == ["patience", "another"]);
    program.finish()
}

#[test]
fn a_patch_is_taken_back_when_the_time_is_up() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("linger")?);
    let patch = victim.patch(&engraft, "fix.patch", "patience", &["linger"])?;
    let mut program = victim.start("linger", &[])?;
    let pid = program.pid().to_string();
    program.expect("enter", "inside")?;
    let reverse = ["--pid", &pid, "--timeout", "0", "--on-timeout", "reverse"];
    let mut apply = engraft.command(["apply"]);
    apply.arg(&patch).args(reverse);
    let enable = engraft.command(["enable", "patience"].into_iter().chain(reverse));
    for mut command in [apply, enable] {
        run(&mut command, TIME_LIMIT)?
            .exits(exit::TARGET_BUSY)?
            .says(&["lingerer", "it was taken back"])?;
        let status = engraft.status(program.pid())?;
        ensure!(status["patches"][0]["state"] == "disabled", "{status}");
        ensure!(status["transition"].is_null(), "{status}");
        program.expect("version", "1")?;
    }
    // Nothing keeps the next one from its work.
    program.expect("leave", "outside")?;
    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    program.expect("version", "2")?;
    program.finish()
}
