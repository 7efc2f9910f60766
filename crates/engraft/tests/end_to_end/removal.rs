//! A disabled patch can be enabled again, or removed with its memory; when the agent is removed
//! too, the process's memory map is what it was before the first patch.

use anyhow::{Result, ensure};
use engraft_testkit::{Engraft, Snapshot, exit};

use crate::{engraft, victim};

/// Runs a command on a process with a short time limit for what it waits for.
fn ask(engraft: &Engraft, arguments: &[&str], pid: u32) -> Result<engraft_testkit::Outcome> {
    let pid = pid.to_string();
    engraft.run(arguments.iter().copied().chain(["--pid", &pid]))
}

#[test]
fn a_removed_patch_and_agent_leave_nothing() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let mut program = victim.start("workers", &["4"])?;
    let pid = program.pid();
    program.expect("round", "old=400 new=0 wrong=0")?;
    program.expect("price 7", "7 apples cost 21")?;
    let before = Snapshot::take(pid)?;

    for _ in 0..3 {
        engraft.apply(&patch, pid)?.exits(exit::OK)?;
        program.expect("round", "old=0 new=400 wrong=0")?;
        engraft.disable("cheap-apples", pid)?.exits(exit::OK)?;
        let status = engraft.status(pid)?;
        ensure!(status["patches"][0]["state"] == "disabled", "{status}");
        ensure!(status["patches"][0]["order"].is_null(), "{status}");
        ensure!(before.expect_untouched().is_err(), "nothing was kept");
        program.expect("round", "old=400 new=0 wrong=0")?;

        ask(&engraft, &["remove", "cheap-apples"], pid)?
            .exits(exit::OK)?
            .says(&["removed"])?;
        let patches = &engraft.status(pid)?["patches"];
        ensure!(patches == &serde_json::json!([]), "{patches}");
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        ensure!(!maps.contains("engraft-patch"), "left: {maps}");
        ask(&engraft, &["remove", "cheap-apples"], pid)?
            .exits(exit::NO_SUCH_PATCH)?
            .says(&["cheap-apples"])?;

        ask(&engraft, &["remove", "--agent"], pid)?
            .exits(exit::OK)?
            .says(&["agent removed"])?;
        before.expect_untouched()?;
        ask(&engraft, &["remove", "--agent"], pid)?
            .exits(exit::OK)?
            .says(&["has no agent"])?;
    }
    program.expect("round", "old=400 new=0 wrong=0")?;
    program.finish()
}

#[test]
fn a_disabled_patch_is_enabled_again_as_the_newest() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("host")?);
    let binaries = ["host", "library.so"];
    let one = victim.patch(&engraft, "p1.patch", "p1", &binaries)?;
    let two = victim.patch(&engraft, "p2.patch", "p2", &binaries)?;
    let mut program = victim.start("host", &[])?;
    let pid = program.pid();
    let open = format!("open {}", victim.file("library.so").display());
    engraft.apply(&one, pid)?.exits(exit::OK)?;
    engraft.apply(&two, pid)?.exits(exit::OK)?;
    engraft.disable("p1", pid)?.exits(exit::OK)?;
    program.expect("ask", "a=102 b=-")?;

    // What waits for the library is kept too.
    ask(&engraft, &["enable", "p1"], pid)?
        .exits(exit::OK)?
        .says(&["enabled", "library.so", "waits"])?;
    ensure!(engraft.patches(pid)? == ["p2", "p1"]);
    program.expect(&open, "opened")?;
    program.expect("seen", "b=101")?;
    program.expect("ask", "a=101 b=101")?;
    ask(&engraft, &["enable", "p1"], pid)?
        .exits(exit::OK)?
        .says(&["already enabled"])?;

    // All disabled, the agent has let go of the loader; libraries come and go unseen.
    engraft.disable("p1", pid)?.exits(exit::OK)?;
    engraft.disable("p2", pid)?.exits(exit::OK)?;
    program.expect("ask", "a=100 b=100")?;
    program.expect("close", "closed")?;
    program.expect(&open, "opened")?;
    program.expect("seen", "b=100")?;
    ask(&engraft, &["enable", "p2"], pid)?.exits(exit::OK)?;
    program.expect("ask", "a=102 b=102")?;
    program.finish()
}

/// A patch all of whose objects are yet to come has no code anywhere, and is kept all the same.
#[test]
fn a_patch_that_waits_is_kept_when_it_is_disabled() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("host")?);
    let patch = victim.patch(&engraft, "library.patch", "for-later", &["library.so"])?;
    let mut program = victim.start("host", &[])?;
    let pid = program.pid();
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    engraft.disable("for-later", pid)?.exits(exit::OK)?;
    ask(&engraft, &["enable", "for-later"], pid)?.exits(exit::OK)?;
    let open = format!("open {}", victim.file("library.so").display());
    program.expect(&open, "opened")?;
    program.expect("ask", "a=100 b=101")?;
    program.finish()
}

#[test]
fn what_cannot_be_removed_says_why() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let mut program = victim.start("workers", &["0"])?;
    let pid = program.pid();
    ask(&engraft, &["remove", "cheap-apples"], pid)?
        .exits(exit::NO_SUCH_PATCH)?
        .says(&["cheap-apples"])?;
    ask(&engraft, &["enable", "cheap-apples"], pid)?
        .exits(exit::NO_SUCH_PATCH)?
        .says(&["cheap-apples"])?;

    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect("price 7", "7 apples at 2 each cost 14")?;
    let before = Snapshot::take(pid)?;
    let enabled = ask(&engraft, &["remove", "cheap-apples"], pid)?;
    enabled
        .exits(exit::WRONG_STATE)?
        .says(&["cheap-apples", "enabled", "hint:", "disable"])?;
    let agent = ask(&engraft, &["remove", "--agent"], pid)?;
    agent
        .exits(exit::WRONG_STATE)?
        .says(&["cheap-apples", "hint:", "remove"])?;
    before.expect_untouched()?;
    program.expect("price 7", "7 apples at 2 each cost 14")?;

    // A disabled patch is still one.
    engraft.disable("cheap-apples", pid)?.exits(exit::OK)?;
    let agent = ask(&engraft, &["remove", "--agent"], pid)?;
    agent.exits(exit::WRONG_STATE)?.says(&["cheap-apples"])?;
    program.finish()
}

/// The new code has returned an address of its data, and a thread still has it.
#[test]
fn memory_that_a_thread_refers_to_stays() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("keeper")?);
    let patch = victim.patch(&engraft, "fix.patch", "new-word", &["keeper"])?;
    let mut program = victim.start("keeper", &[])?;
    let pid = program.pid();
    let start = Snapshot::take(pid)?;
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect("take", "taken")?;
    engraft.disable("new-word", pid)?.exits(exit::OK)?;
    program.expect("word", "old")?;

    let before = Snapshot::take(pid)?;
    ask(&engraft, &["remove", "new-word", "--timeout", "1"], pid)?
        .exits(exit::TARGET_BUSY)?
        .says(&["keeper", "new-word", "stack", "hint:"])?;
    before.expect_untouched()?;
    ensure!(engraft.status(pid)?["patches"][0]["state"] == "disabled");

    program.expect("drop", "new")?;
    ask(&engraft, &["remove", "new-word"], pid)?.exits(exit::OK)?;
    ask(&engraft, &["remove", "--agent"], pid)?.exits(exit::OK)?;
    start.expect_untouched()?;
    program.finish()
}

/// The new code has left the address of a function that only it has: nobody knows who calls it.
#[test]
fn code_whose_address_has_escaped_stays() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("keeper")?);
    let patch = victim.patch(&engraft, "escape.patch", "escape", &["keeper"])?;
    let mut program = victim.start("keeper", &[])?;
    let pid = program.pid();
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect("word", "new")?;
    program.expect("hook", "left behind")?;
    engraft.disable("escape", pid)?.exits(exit::OK)?;
    ask(&engraft, &["remove", "escape"], pid)?
        .exits(exit::OK)?
        .says(&["bytes of it stay"])?;
    ask(&engraft, &["remove", "--agent"], pid)?.exits(exit::OK)?;
    program.expect("word", "old")?;
    program.expect("hook", "left behind")?;
    program.finish()
}

/// Enabling has to wait for a thread, and the time is up: it can be turned back, and nothing has
/// changed then.
#[test]
fn enabling_that_is_turned_back_leaves_the_patch_disabled() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("linger")?);
    let patch = victim.patch(&engraft, "fix.patch", "patience", &["linger"])?;
    let mut program = victim.start("linger", &[])?;
    let pid = program.pid();
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    engraft.disable("patience", pid)?.exits(exit::OK)?;
    program.expect("enter", "inside")?;
    let before = Snapshot::take(pid)?;
    ask(&engraft, &["enable", "patience", "--timeout", "1"], pid)?
        .exits(exit::TARGET_BUSY)?
        .says(&["lingerer", "linger", "hint:"])?;
    program.expect("version", "2")?;
    engraft.disable("patience", pid)?.exits(exit::OK)?;
    before.expect_untouched()?;
    program.expect("version", "1")?;

    program.expect("leave", "outside")?;
    ask(&engraft, &["enable", "patience"], pid)?.exits(exit::OK)?;
    program.expect("version", "2")?;
    program.finish()
}
