//! Whatever the step at which the controller is killed, the target goes on correctly, and the next
//! controller brings it to an end. Whatever the effect on the target that fails, everything is as
//! before.
//!
//! `ENGRAFT_PROCESS_DIE_AT=N` kills the command right after its Nth effect,
//! `ENGRAFT_PROCESS_FAIL_AT=N` makes the Nth fail; counting up until neither happens goes through
//! all of them. Without `ENGRAFT_LONG_TESTS=1` only some are tried, other ones each time that the
//! number of effects changes.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Engraft, Held, Outcome, Program, Snapshot, TIME_LIMIT, Victim, exit, run};

use crate::operator::set_limits;
use crate::{engraft, victim};

/// Every so many effects in the short form.
const STRIDE: usize = 13;

const PATCH: &str = "fix";

/// What is done when the controller is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// A patch is applied to busy threads.
    Apply,
    /// A patch is applied where no memory files can be made.
    ApplyWithoutFiles,
    /// It is disabled.
    Disable,
    /// A transition that waits for a thread is turned round.
    Reverse,
    /// A transition is driven to its end.
    Wait,
    /// The agent and the patch are taken out of the process.
    Remove,
}

/// A command that is to be killed, or to fail, and its program.
struct Stage {
    engraft: Engraft,
    victim: Victim,
    patch: PathBuf,
    act: Act,
}

impl Stage {
    fn new(act: Act) -> Result<Self> {
        let engraft = engraft();
        let name = match act {
            Act::Apply | Act::ApplyWithoutFiles | Act::Disable | Act::Remove => "workers",
            Act::Reverse | Act::Wait => "linger",
        };
        let victim = victim(name)?;
        let patch = victim.patch(&engraft, "fix.patch", PATCH, &[name])?;
        Ok(Self {
            engraft,
            victim,
            patch,
            act,
        })
    }

    /// The program before any command, and what it holds then.
    fn start(&self) -> Result<(Program, Held)> {
        let mut program = match self.act {
            Act::Reverse | Act::Wait => self.victim.start("linger", &[])?,
            _ => self.victim.start("workers", &["4"])?,
        };
        // When it has answered it has all that it needs for that.
        self.check_answers(&mut program, Some(false))?;
        let held = Held::take(program.pid())?;
        Ok((program, held))
    }

    /// The program, just before the command, and what it held before any.
    fn set(&self) -> Result<(Program, Held)> {
        let (mut program, held) = self.start()?;
        match self.act {
            Act::Apply => {}
            Act::ApplyWithoutFiles => set_limits(program.pid(), &["--nofile=3"])?,
            Act::Disable => {
                self.command(&program, "apply")?.exits(exit::OK)?;
            }
            Act::Remove => {
                self.command(&program, "apply")?.exits(exit::OK)?;
                self.command(&program, "disable")?.exits(exit::OK)?;
            }
            Act::Reverse | Act::Wait => {
                program.expect("enter", "inside")?;
                self.run(&program, "apply", &["--timeout", "0"], None)?
                    .exits(exit::TARGET_BUSY)?;
                if self.act == Act::Wait {
                    program.expect("leave", "outside")?;
                }
            }
        }
        Ok((program, held))
    }

    /// The command itself.
    fn act(&self, program: &Program, variable: Option<(&str, usize)>) -> Result<Outcome> {
        let command = match self.act {
            Act::Apply | Act::ApplyWithoutFiles => "apply",
            Act::Disable | Act::Reverse => "disable",
            Act::Wait => "wait",
            Act::Remove => "remove",
        };
        self.run(program, command, &[], variable)
    }

    fn command(&self, program: &Program, command: &str) -> Result<Outcome> {
        self.run(program, command, &[], None)
    }

    fn run(
        &self,
        program: &Program,
        command: &str,
        more: &[&str],
        variable: Option<(&str, usize)>,
    ) -> Result<Outcome> {
        let mut line = self.engraft.command([command]);
        match command {
            "apply" => line.arg(&self.patch),
            _ => line.arg(PATCH),
        };
        line.args(["--pid", &program.pid().to_string()]).args(more);
        if let Some((name, value)) = variable {
            line.env(name, value.to_string());
        }
        run(&mut line, TIME_LIMIT)
    }

    /// Fails unless every answer of the program is right: for its old code, its new code, or for
    /// either.
    fn check_answers(&self, program: &mut Program, expected: Option<bool>) -> Result<()> {
        let new = match self.act {
            Act::Reverse | Act::Wait => match program.ask("version")?.as_str() {
                "1" => Some(false),
                "2" => Some(true),
                other => anyhow::bail!("version {other:?}"),
            },
            Act::Apply | Act::ApplyWithoutFiles | Act::Disable | Act::Remove => {
                let answer = program.ask("round")?;
                match answer.as_str() {
                    "old=400 new=0 wrong=0" => Some(false),
                    "old=0 new=400 wrong=0" => Some(true),
                    // In the middle of a transition each thread has its own answer.
                    mixed => {
                        ensure!(mixed.ends_with(" wrong=0"), "{mixed}");
                        None
                    }
                }
            }
        };
        ensure!(
            expected.is_none() || new == expected,
            "the program runs new code: {new:?}, not {expected:?}"
        );
        Ok(())
    }

    /// The next controller brings it all to an end, in which the patch was applied, and was taken
    /// away; nothing is left.
    fn bring_to_an_end(&self, program: &mut Program, held: &Held) -> Result<()> {
        self.command(program, "status")?;
        if self.act == Act::Reverse {
            program.expect("leave", "outside")?;
        }
        self.command(program, "apply")?.exits(exit::OK)?;
        self.check_answers(program, Some(true))?;
        self.command(program, "disable")?.exits(exit::OK)?;
        self.check_answers(program, Some(false))?;
        self.command(program, "remove")?.exits(exit::OK)?;
        let pid = program.pid().to_string();
        let removed = self.engraft.run(["remove", "--agent", "--pid", &pid])?;
        removed.exits(exit::OK)?;
        let changed = Snapshot::take(program.pid())?.text_bytes_unlike_files()?;
        ensure!(changed == 0, "{changed} bytes of code have changed");
        self.check_answers(program, Some(false))?;
        held.expect_same()
    }

    /// Kills the command after its `step`th effect; false if it has fewer.
    fn kill_at(&self, step: usize) -> Result<bool> {
        let (mut program, held) = self.set()?;
        let outcome = self.act(&program, Some(("ENGRAFT_PROCESS_DIE_AT", step)))?;
        if outcome.code.is_some() {
            outcome.exits(exit::OK)?;
            return Ok(false);
        }
        self.check_answers(&mut program, None)?;
        self.bring_to_an_end(&mut program, &held)?;
        program.finish()?;
        Ok(true)
    }

    /// Makes the `step`th effect fail; false if the command has fewer. Whether the command failed
    /// is its own business; if it did, everything must be as before.
    fn fail_at(&self, step: usize) -> Result<bool> {
        let (mut program, held) = self.set()?;
        let before = Snapshot::take(program.pid())?;
        let is_new = match self.act {
            Act::Apply | Act::ApplyWithoutFiles | Act::Remove => false,
            Act::Disable | Act::Reverse | Act::Wait => true,
        };
        let outcome = self.act(&program, Some(("ENGRAFT_PROCESS_FAIL_AT", step)))?;
        let happened = outcome.stderr.contains("injected");
        if outcome.code == Some(exit::OK) {
            // It did not matter, or there were fewer effects.
            let after = matches!(self.act, Act::Apply | Act::ApplyWithoutFiles | Act::Wait);
            self.check_answers(&mut program, Some(after))
                .with_context(|| format!("after {outcome}"))?;
        } else {
            let said = outcome.stderr.clone();
            ensure!(said.contains("error: "), "no reason is given: {outcome}");
            (|| {
                self.check_answers(&mut program, Some(is_new))?;
                match self.act {
                    Act::Apply | Act::ApplyWithoutFiles => {
                        before.expect_untouched()?;
                        held.expect_same()
                    }
                    _ => before.expect_same_text(),
                }
            })()
            .with_context(|| format!("after {outcome}"))?;
        }
        if self.act == Act::Reverse {
            program.expect("leave", "outside")?;
        }
        self.command(&program, "apply")?.exits(exit::OK)?;
        self.check_answers(&mut program, Some(true))?;
        program.finish()?;
        Ok(happened)
    }
}

fn each_step(act: Act, try_at: impl Fn(&Stage, usize) -> Result<bool>) -> Result<()> {
    let stage = Stage::new(act)?;
    let stride = match std::env::var_os("ENGRAFT_LONG_TESTS") {
        Some(_) => 1,
        None => STRIDE,
    };
    let mut steps = 0;
    for step in (1..).step_by(stride) {
        match try_at(&stage, step).with_context(|| format!("{act:?}, effect {step}"))? {
            true => steps += 1,
            false => break,
        }
    }
    println!("{act:?}: {steps} effects tried");
    ensure!(steps > 1, "there were only {steps} effects");
    Ok(())
}

#[test]
fn killed_while_it_applies() -> Result<()> {
    each_step(Act::Apply, Stage::kill_at)
}

#[test]
fn killed_while_it_applies_without_memory_files() -> Result<()> {
    each_step(Act::ApplyWithoutFiles, Stage::kill_at)
}

#[test]
fn killed_while_it_disables() -> Result<()> {
    each_step(Act::Disable, Stage::kill_at)
}

#[test]
fn killed_while_it_reverses() -> Result<()> {
    each_step(Act::Reverse, Stage::kill_at)
}

#[test]
fn killed_while_it_waits() -> Result<()> {
    each_step(Act::Wait, Stage::kill_at)
}

#[test]
fn killed_while_it_removes() -> Result<()> {
    each_step(Act::Remove, Stage::kill_at)
}

#[test]
fn each_effect_fails_while_it_applies() -> Result<()> {
    each_step(Act::Apply, Stage::fail_at)
}

#[test]
fn each_effect_fails_while_it_applies_without_memory_files() -> Result<()> {
    each_step(Act::ApplyWithoutFiles, Stage::fail_at)
}

#[test]
fn each_effect_fails_while_it_disables() -> Result<()> {
    each_step(Act::Disable, Stage::fail_at)
}

#[test]
fn each_effect_fails_while_it_reverses() -> Result<()> {
    each_step(Act::Reverse, Stage::fail_at)
}
