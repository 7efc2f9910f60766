//! How long a busy thread stands still while a patch is applied.
//!
//! The thread itself measures (`bench/pause/pause.c`): the longest time between two readings of the
//! clock, without the time in it that it was ready to run and had no CPU. The same is measured for
//! as long again with nothing happening: what the machine does by itself.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use engraft_testkit::{Engraft, Program, Victim, exit};

use super::statistics::Sample;
use crate::cargo;

/// The busy thread and this many more that sleep.
const SLEEPERS: [usize; 2] = [0, 99];

/// What one process showed.
struct Figures {
    /// The longest gap with a patch being applied.
    applied: Duration,
    /// The longest gap with nothing happening.
    idle: Duration,
    /// What the command took from start to end.
    command: Duration,
}

pub(super) fn run(engraft: &Engraft, processes: usize) -> Result<()> {
    let victim = Victim::build(&cargo::workspace().join("bench/pause"))?;
    let patch = victim.patch(engraft, "fix.patch", "bench-pause", &["pause"])?;
    println!("\nPause of a busy thread at apply: median (range) in ms");
    let heads = ["with apply", "idle", "difference", "apply command"];
    println!(
        "{:>8} {}",
        "threads",
        heads.map(|head| format!("{head:<26}")).concat()
    );
    for sleepers in SLEEPERS {
        let figures = (0..processes).map(|_| measure(engraft, &victim, &patch, sleepers));
        let figures = figures.collect::<Result<Vec<_>>>()?;
        let columns = [
            Sample::new(figures.iter().map(|one| one.applied)),
            Sample::new(figures.iter().map(|one| one.idle)),
            Sample::new(
                figures
                    .iter()
                    .map(|one| one.applied.saturating_sub(one.idle)),
            ),
            Sample::new(figures.iter().map(|one| one.command)),
        ];
        println!(
            "{:>8} {}",
            sleepers + 1,
            columns.map(|sample| format!("{sample:<26}")).concat()
        );
    }
    Ok(())
}

fn measure(engraft: &Engraft, victim: &Victim, patch: &Path, sleepers: usize) -> Result<Figures> {
    let mut program = victim.start("pause", &[&sleepers.to_string()])?;
    program.expect("window", "measuring")?;
    let outcome = engraft.apply(patch, program.pid())?.exits(exit::OK)?;
    let applied = end_of_window(&mut program)?;
    program.expect("version", "2")?;
    program.expect("window", "measuring")?;
    // The length of the window is what is wanted here; nothing is waited for.
    thread::sleep(outcome.took);
    let idle = end_of_window(&mut program)?;
    program.finish()?;
    Ok(Figures {
        applied,
        idle,
        command: outcome.took,
    })
}

fn end_of_window(program: &mut Program) -> Result<Duration> {
    let answer = program.ask("end")?;
    let longest = answer
        .strip_prefix("longest_ns=")
        .and_then(|number| number.parse().ok());
    let longest = longest.with_context(|| format!("failed to read the answer {answer:?}"))?;
    Ok(Duration::from_nanos(longest))
}
