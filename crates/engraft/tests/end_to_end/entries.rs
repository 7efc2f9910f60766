//! Threads that stand in the first bytes of a function, where its jump to new code goes, are no
//! obstacle: they go on with the same instructions elsewhere, whenever the command dies and
//! whatever fails.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Engraft, Outcome, Program, Snapshot, TIME_LIMIT, Victim, exit, run};

use crate::{engraft, victim};

/// Every so many effects in the short form of what dies or fails.
const STRIDE: usize = 19;

/// The command, the program, and the patch.
struct Stage {
    engraft: Engraft,
    victim: Victim,
    patch: PathBuf,
}

impl Stage {
    fn new() -> Result<Self> {
        let (engraft, victim) = (engraft(), victim("entries")?);
        let patch = victim.patch(&engraft, "fix.patch", "fix", &["entries"])?;
        Ok(Self {
            engraft,
            victim,
            patch,
        })
    }

    /// The program with a thread that sleeps in the first bytes of the old function.
    fn asleep(&self) -> Result<Program> {
        let mut program = self.victim.start("entries", &["0"])?;
        program.expect("version", "1")?;
        program.expect("enter", "asleep")?;
        Ok(program)
    }

    /// Applies the patch without waiting for anybody, with a variable for the command.
    fn apply_at_once(&self, pid: u32, variable: Option<(&str, usize)>) -> Result<Outcome> {
        apply(&self.engraft, &self.patch, pid, "0", variable)
    }

    /// The thread leaves the old function as such, the patch comes, goes, and leaves nothing.
    fn bring_to_an_end(&self, program: &mut Program, before: &Snapshot) -> Result<()> {
        let pid = program.pid();
        program.expect("leave", "1001")?;
        self.engraft.apply(&self.patch, pid)?.exits(exit::OK)?;
        program.expect("version", "2")?;
        program.expect("enter", "asleep")?;
        program.expect("leave", "2001")?;
        self.engraft.disable("fix", pid)?.exits(exit::OK)?;
        program.expect("version", "1")?;
        let pid = pid.to_string();
        for what in [["remove", "fix"], ["remove", "--agent"]] {
            let removed = self.engraft.run(what.into_iter().chain(["--pid", &pid]))?;
            removed.exits(exit::OK)?;
        }
        before.expect_same_text()
    }
}

fn apply(
    engraft: &Engraft,
    patch: &Path,
    pid: u32,
    timeout: &str,
    variable: Option<(&str, usize)>,
) -> Result<Outcome> {
    let mut line = engraft.command(["apply"]);
    line.arg(patch)
        .args(["--pid", &pid.to_string(), "--timeout", timeout]);
    if let Some((name, value)) = variable {
        line.env(name, value.to_string());
    }
    run(&mut line, TIME_LIMIT)
}

/// Tries each effect of a command, or some; `try_at` says whether the command has so many.
fn each_effect(try_at: impl Fn(&Stage, usize) -> Result<bool>) -> Result<()> {
    let stage = Stage::new()?;
    let stride = match std::env::var_os("ENGRAFT_LONG_TESTS") {
        Some(_) => 1,
        None => STRIDE,
    };
    let mut tried = 0;
    for step in (1..).step_by(stride) {
        if !try_at(&stage, step).with_context(|| format!("effect {step}"))? {
            break;
        }
        tried += 1;
    }
    ensure!(tried > 1, "there were only {tried} effects");
    Ok(())
}

#[test]
fn a_thread_that_sleeps_there_goes_on_in_the_old_code() -> Result<()> {
    let stage = Stage::new()?;
    let mut program = stage.asleep()?;
    let before = Snapshot::take(program.pid())?;
    stage
        .apply_at_once(program.pid(), None)?
        .exits(exit::TARGET_BUSY)?
        .says(&["1 thread has yet to switch", "sleep_here"])?;
    program.expect("version", "2")?;
    stage.bring_to_an_end(&mut program, &before)?;
    program.finish()
}

#[test]
fn the_command_is_killed() -> Result<()> {
    each_effect(|stage, step| {
        let mut program = stage.asleep()?;
        let before = Snapshot::take(program.pid())?;
        let variable = Some(("ENGRAFT_PROCESS_DIE_AT", step));
        let outcome = stage.apply_at_once(program.pid(), variable)?;
        if outcome.code.is_some() {
            outcome.exits(exit::TARGET_BUSY)?;
            return Ok(false);
        }
        let version = program.ask("version")?;
        ensure!(["1", "2"].contains(&version.as_str()), "version {version}");
        stage.bring_to_an_end(&mut program, &before)?;
        program.finish()?;
        Ok(true)
    })
}

#[test]
fn an_effect_of_the_command_fails() -> Result<()> {
    each_effect(|stage, step| {
        let mut program = stage.asleep()?;
        let before = Snapshot::take(program.pid())?;
        let variable = Some(("ENGRAFT_PROCESS_FAIL_AT", step));
        let outcome = stage.apply_at_once(program.pid(), variable)?;
        let happened = outcome.stderr.contains("injected");
        let is_open = outcome.stderr.contains("has yet to switch");
        (|| {
            ensure!(outcome.stderr.contains("error: "), "no reason is given");
            program.expect("version", if is_open { "2" } else { "1" })?;
            if !is_open {
                before.expect_same_text()?;
            }
            stage.bring_to_an_end(&mut program, &before)
        })()
        .with_context(|| format!("after {outcome}"))?;
        program.finish()?;
        Ok(happened)
    })
}

#[test]
fn a_tiny_function_is_called_by_many_threads() -> Result<()> {
    let stage = Stage::new()?;
    for threads in ["1", "4", "16", "64"] {
        let mut program = stage.victim.start("entries", &[threads])?;
        let pid = program.pid();
        let applied = apply(&stage.engraft, &stage.patch, pid, "5", None)?;
        // How far it comes by then is a matter of time. But no thread in the first bytes keeps it
        // from its beginning.
        let has_begun = applied.code == Some(exit::OK) || applied.stderr.contains("yet to switch");
        if has_begun {
            program.expect("version", "2")?;
        } else {
            applied.exits(exit::TARGET_BUSY)?.says(&["the time of"])?;
        }
        program.expect("rest", "wrong=0")?;
        stage.engraft.apply(&stage.patch, pid)?.exits(exit::OK)?;
        program.expect("work", "wrong=0")?;
        program.expect("rest", "wrong=0")?;
        stage.engraft.disable("fix", pid)?.exits(exit::OK)?;
        program.expect("version", "1")?;
        program.finish()?;
    }
    Ok(())
}
