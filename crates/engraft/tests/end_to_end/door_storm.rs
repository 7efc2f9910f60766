//! Threads that are inside nearly always switch by themselves, at their next call, with no command
//! there: in chains that end by returning, by longjmp and by exceptions, interrupted by signals
//! whose handlers call the same functions on the same stack and on an alternate one. No chain sees
//! two versions, and no handler another one than the chain that it has interrupted.
//!
//! That the program would see one is shown by the same tool as in `storm_control.rs`.
//!
//! `ENGRAFT_LONG_TESTS=1` makes the ten rounds three hundred, with ten million chains at least.

use anyhow::{Context, Result, bail, ensure};
use engraft_testkit::{Program, Snapshot, TIME_LIMIT, Victim, exit, has_tool, run};

use crate::storm_control::Tool;
use crate::{engraft, victim, victims};

const THREADS: u64 = 8;

#[test]
fn no_chain_sees_two_versions() -> Result<()> {
    if !has_tool("door_storm::no_chain_sees_two_versions", "g++")? {
        return Ok(());
    }
    let long = std::env::var_os("ENGRAFT_LONG_TESTS").is_some();
    let (rounds, chains) = if long {
        (300, 10_000_000)
    } else {
        (10, 10_000)
    };
    let (engraft, victim) = (engraft(), victim("door_storm")?);
    let patch = victim.patch(&engraft, "fix.patch", "storm", &["storm"])?;
    let patch = patch.to_str().context("a path that is no text")?;
    let mut program = victim.start("storm", &[&THREADS.to_string()])?;
    let before = Snapshot::take(program.pid())?;
    let pid = program.pid().to_string();
    let command = |words: &[&str], timeout: &str| {
        let mut command = engraft.command(words.iter().copied());
        command.args(["--pid", &pid, "--timeout", timeout]);
        run(&mut command, TIME_LIMIT)
    };
    let waiting = || anyhow::Ok(engraft.status(pid.parse()?)?["transition"]["waiting"].as_u64());
    let (mut behind, mut by_themselves) = (0, 0);
    for _ in 0..rounds {
        for (words, all) in [
            (["apply", patch], "1=0 2=8"),
            (["disable", "storm"], "1=8 2=0"),
        ] {
            // Lets go of the transition as soon as it has begun.
            let begun = loop {
                let begun = command(&words, "0")?;
                match begun.code {
                    Some(exit::OK) => break begun,
                    Some(exit::TARGET_BUSY) if waiting()?.is_some() => break begun,
                    // Something was in the way at that moment.
                    Some(exit::TARGET_BUSY) => {}
                    _ => bail!("{begun}"),
                }
            };
            let first = number_before(&begun.stderr, " yet to switch");
            program.ask("round")?;
            let then = waiting()?;
            behind += first;
            by_themselves += first.saturating_sub(then.unwrap_or(0));
            if then.is_some() {
                command(&["wait", "storm"], "50")?.exits(exit::OK)?;
            }
            program.expect("round", all)?;
            let counts = Counts::of(&mut program)?;
            ensure!(counts.mixed == 0 && counts.unlike == 0, "{counts:?}");
        }
    }
    let counts = Counts::of(&mut program)?;
    println!(
        "{rounds} rounds, {counts:?}: {behind} threads stayed behind, {by_themselves} switched by themselves"
    );
    ensure!(
        counts.chains > chains && counts.handlers > 0 && behind > rounds,
        "{counts:?}, {behind} behind"
    );
    // The others were on an alternate stack, or their stacks could not be walked, when they were
    // looked at.
    ensure!(
        by_themselves * 2 > behind,
        "{by_themselves} of {behind} switched"
    );
    before.expect_same_text()?;
    program.finish()
}

/// As in "3 threads have yet to switch".
fn number_before(text: &str, words: &str) -> u64 {
    let before = text.split(words).next().filter(|before| *before != text);
    let words = before.into_iter().flat_map(|before| before.rsplit(' '));
    words
        .filter_map(|word| word.parse().ok())
        .next()
        .unwrap_or(0)
}

#[test]
fn jumps_without_a_transition_are_seen() -> Result<()> {
    if !has_tool("door_storm::jumps_without_a_transition_are_seen", "g++")? {
        return Ok(());
    }
    let victim = Victim::build_with(&victims().join("door_storm"), &["control"])?;
    let mut program = victim.start("control", &[&THREADS.to_string()])?;
    let tool = Tool::new(&victim.file("control"), program.pid())?;
    program.ask("round")?;
    ensure!(Counts::of(&mut program)?.mixed == 0);
    let mut mixed = 0;
    for number in (1..=4).rev() {
        tool.lead_to_new_code(&format!("f{number}"))?;
        program.ask("round")?;
        let counts = Counts::of(&mut program)?;
        // With the first one, all four are new, but for chains that have begun before.
        ensure!(
            counts.mixed > mixed || number == 1,
            "not seen with f{number}"
        );
        mixed = counts.mixed;
    }
    program.expect("round", "1=0 2=8")?;
    program.finish()
}

/// The answer to `counts`.
#[derive(Debug)]
struct Counts {
    chains: u64,
    handlers: u64,
    mixed: u64,
    unlike: u64,
}

impl Counts {
    fn of(program: &mut Program) -> Result<Self> {
        let answer = program.ask("counts")?;
        let counts: Option<Vec<u64>> = answer
            .split(' ')
            .map(|count| count.split_once('=')?.1.parse().ok())
            .collect();
        match counts.as_deref() {
            Some(&[chains, handlers, mixed, unlike]) => Ok(Self {
                chains,
                handlers,
                mixed,
                unlike,
            }),
            _ => bail!("failed to read {answer:?}"),
        }
    }
}
