//! `cargo xtask test`: everything that must hold before a change goes in.
//!
//! Needs no terminal. Runs all steps even if one fails, and ends with one line of the form
//! `N passed, N failed, N skipped`, where a step that is no set of tests counts as one.

mod tally;

use std::io::{BufRead, BufReader, Write};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use engraft_testkit::is_root;

use crate::{cargo, rooms, tools};
use tally::{Tally, Transcript};

/// Runs all steps and returns whether nothing failed.
pub fn run() -> Result<bool> {
    tools::require(tools::COMPILER)?;
    cargo::require_components()?;
    prepare_for_real_input()?;
    let mut total = Tally::default();
    let mut summary = Vec::new();
    for (name, step) in STEPS {
        println!("\n=== {name}");
        let start = Instant::now();
        let tally = step()?;
        let line = format!("{name}: {tally} ({:.0} s)", start.elapsed().as_secs_f32());
        println!("--- {line}");
        summary.push(line);
        total += tally;
    }
    println!("\n=== Summary");
    for line in summary {
        println!("{line}");
    }
    // What ran is in the scroll above; the reasons of what did not are repeated where they are seen.
    for skipped in &total.reasons {
        println!("{skipped}");
    }
    println!("{total}");
    Ok(total.failed == 0)
}

type Step = fn() -> Result<Tally>;

const STEPS: [(&str, Step); 4] = [
    ("The sources are formatted", || {
        command(cargo::command().args(["fmt", "--all", "--check"]))
    }),
    ("The sources keep the lints", || {
        let lints = ["--workspace", "--all-targets", "--", "--deny", "warnings"];
        command(cargo::command().arg("clippy").args(lints))
    }),
    ("Dependencies point downwards", || {
        Ok(Tally::of_one(&rooms::check()))
    }),
    ("All tests pass", || {
        tests(cargo::command().args(["test", "--workspace", "--no-fail-fast"]))
    }),
];

/// Tests on real source packages need more tools; without them they are skipped, and say so.
fn prepare_for_real_input() -> Result<()> {
    if !is_root()? {
        return Ok(());
    }
    if let Err(error) = tools::require(tools::SOURCE_PACKAGES) {
        println!("Some tests on real sources will be skipped: {error:#}");
    }
    Ok(())
}

/// Runs a command that either succeeds or does not.
fn command(command: &mut Command) -> Result<Tally> {
    let status = command
        .status()
        .with_context(|| format!("failed to start {command:?}"))?;
    let result = if status.success() {
        Ok(())
    } else {
        Err(anyhow::anyhow!("{status}"))
    };
    Ok(Tally::of_one(&result))
}

/// Runs `cargo test`, shows what it says as it says it, and counts.
fn tests(command: &mut Command) -> Result<Tally> {
    // One pipe for both streams keeps their lines in order.
    let (reader, writer) = std::io::pipe()?;
    let mut child = command
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("failed to start {command:?}"))?;
    // `command` holds copies of the writing end; the reading would never end with them.
    *command = Command::new("true");
    let mut transcript = Transcript::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        transcript.read(&line);
        writeln!(std::io::stdout(), "{line}")?;
    }
    Ok(transcript.tally(child.wait()?.success()))
}
