//! While two libraries come and go without a pause, one where the other one was, no command says
//! what is not so: that another build is loaded, or that there is no memory.
//!
//! `ENGRAFT_LONG_TESTS=1` makes it 2,000 applies in each storm.

use anyhow::{Result, ensure};
use engraft_testkit::{Outcome, TIME_LIMIT, exit, run};

use crate::{engraft, victim};

#[test]
fn few_threads_with_pauses() -> Result<()> {
    is_never_another_build("4", "100")
}

#[test]
fn many_threads_with_short_pauses() -> Result<()> {
    is_never_another_build("8", "10")
}

fn is_never_another_build(threads: &str, pause: &str) -> Result<()> {
    let long = std::env::var_os("ENGRAFT_LONG_TESTS").is_some();
    let (engraft, victim) = (engraft(), victim("turns")?);
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["first.so", "second.so"])?;
    let patch = patch.to_string_lossy();
    let files = ["first.so", "second.so"].map(|name| victim.file(name));
    let [first, second] = files.each_ref().map(|file| file.to_string_lossy());
    let mut program = victim.start("turns", &[threads, pause, &first, &second])?;
    let pid = program.pid().to_string();
    let ask = |command: &[&str]| -> Result<Outcome> {
        let mut command = engraft.command(command);
        run(command.args(["--pid", &pid, "--timeout", "2"]), TIME_LIMIT)
    };
    for _ in 0..if long { 2000 } else { 15 } {
        expect_true(&ask(&["check", &patch])?)?;
        expect_true(&ask(&["apply", &patch])?)?;
        expect_true(&engraft.run(["status", "--pid", &pid])?)?;
        expect_true(&ask(&["disable", "fix"])?)?;
        expect_true(&ask(&["remove", "fix"])?)?;
    }
    program.expect("rounds 50", "failed=0")?;
    program.finish()
}

/// Success, or that there was no time for it: threads stayed inside, or libraries came and went too
/// fast. Then the next command finds the patch in another state.
fn expect_true(outcome: &Outcome) -> Result<()> {
    let codes = [
        exit::OK,
        exit::TARGET_BUSY,
        exit::NO_SUCH_PATCH,
        exit::WRONG_STATE,
    ];
    let is_known = outcome.code.is_some_and(|code| codes.contains(&code));
    let is_false = outcome.stdout.contains("another build");
    ensure!(is_known && !is_false, "false words from {outcome}");
    Ok(())
}
