//! The command is killed, or one of its effects fails, while it opens doors for threads: a
//! transition is reversed after its threads have switched at their doors, so that they are inside
//! again and need new ones.
//!
//! As in [`crate::matrix`]; the long form (`ENGRAFT_LONG_TESTS=1`) goes through every effect.

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Outcome, exit};

use crate::door::Door;

/// Every so many effects in the short form.
const STRIDE: usize = 29;

/// Threads that are inside.
const THREADS: usize = 2;

/// Both threads have switched at the door and are inside new code; the transition is still open.
fn set(first: &Door) -> Result<Door> {
    let mut door = first.another(&[("plain", THREADS)])?;
    door.begin("apply")?;
    door.turn("ended 1=2 2=0 mixed=0, inside 1=0 2=2")?;
    ensure!(door.waiting()? == Some(0), "{:?}", door.waiting());
    Ok(door)
}

/// The threads go on, and the next command takes the patch back.
fn bring_to_an_end(mut door: Door) -> Result<()> {
    let said = door.program.ask("turn")?;
    ensure!(said.contains("mixed=0"), "{said}");
    let disabled = door.command("disable", None)?;
    if disabled.code == Some(exit::TARGET_BUSY) {
        let said = door.program.ask("turn")?;
        ensure!(said.contains("mixed=0"), "{said}");
        door.wait()?;
    }
    door.turn("ended 1=2 2=0 mixed=0, inside 1=2 2=0")?;
    door.before.expect_same_text()?;
    door.program.finish()
}

/// Tries each effect until the command has fewer.
fn each_effect(variable: &str, happened: impl Fn(&Outcome) -> bool) -> Result<()> {
    let stride = match std::env::var_os("ENGRAFT_LONG_TESTS") {
        Some(_) => 1,
        None => STRIDE,
    };
    let first = Door::new(&[])?;
    let mut effects = 0;
    for effect in (1..).step_by(stride) {
        let door = set(&first)?;
        let outcome = door.command("disable", Some((variable, effect)))?;
        let has_happened = happened(&outcome);
        bring_to_an_end(door).with_context(|| format!("effect {effect}, after {outcome}"))?;
        if !has_happened {
            break;
        }
        effects += 1;
    }
    println!("{variable}: {effects} effects tried");
    ensure!(effects > 1, "there were only {effects} effects");
    Ok(())
}

#[test]
fn killed() -> Result<()> {
    each_effect("ENGRAFT_PROCESS_DIE_AT", |outcome| outcome.code.is_none())
}

#[test]
fn each_effect_fails() -> Result<()> {
    each_effect("ENGRAFT_PROCESS_FAIL_AT", |outcome| {
        outcome.stderr.contains("injected")
    })
}
