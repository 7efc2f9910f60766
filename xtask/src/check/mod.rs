//! `cargo xtask test`: everything that must hold before a change goes in.
//!
//! Needs no terminal. Runs all steps even if one fails, and ends with one line of the form
//! `N passed, N failed, N skipped`, where a step that is no set of tests counts as one.

mod deny;
mod links;
mod report;
mod shipped;
mod tally;

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use engraft_testkit::is_root;

use crate::{cargo, rooms, tools};
use report::Report;
use tally::Tally;

/// The number of slow tests that are listed.
const SLOWEST: usize = 10;

/// Runs all steps and returns whether nothing failed.
pub fn run() -> Result<bool> {
    tools::require(tools::COMPILER)?;
    cargo::require_components()?;
    cargo::require_program("nextest")?;
    prepare_tests()?;
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
    // The results of the steps are in the scroll above; the reasons for skips are repeated here,
    // where they are seen.
    for skipped in &total.reasons {
        println!("{skipped}");
    }
    println!("{total}");
    Ok(total.failed == 0)
}

type Step = fn() -> Result<Tally>;

const STEPS: [(&str, Step); 8] = [
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
    ("Dependencies may be used", deny::check),
    ("The documents name files that exist", || {
        Ok(Tally::of_one(&links::check()))
    }),
    ("What users get has no hooks of the tests", || {
        Ok(Tally::of_one(&shipped::check()))
    }),
    ("The examples in the documentation work", || {
        command(cargo::command().args(["test", "--workspace", "--doc", "--quiet"]))
    }),
    ("All tests pass", tests),
];

/// Installs the tools that only tests need, as root. For another user the tests that miss one are
/// skipped, and say so.
fn prepare_tests() -> Result<()> {
    for tools in [tools::TESTS, tools::SOURCE_PACKAGES] {
        match tools::require(tools) {
            Ok(()) => {}
            Err(error) if is_root()? => return Err(error),
            Err(error) => println!("Some tests will be skipped: {error:#}"),
        }
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

/// Runs all tests, and counts them by the runner's report.
fn tests() -> Result<Tally> {
    let path = cargo::workspace().join("target/nextest/default/report.xml");
    // The report of an earlier run says nothing about this one.
    if path.exists() {
        fs::remove_file(&path)?;
    }
    let mut run = cargo::command();
    run.args(["nextest", "run", "--workspace"]);
    // The demo's test would build it once more, optimised.
    if shipped::path().exists() {
        run.env(cargo::COMMAND, shipped::path());
    }
    let status = run
        .status()
        .with_context(|| format!("failed to start {run:?}"))?;
    let Ok(report) = fs::read_to_string(&path) else {
        // The tests did not even compile.
        return Ok(Tally::of_one(&Err(anyhow::anyhow!("{status}"))));
    };
    let report = Report::parse(&report)?;
    let mut tally = report.tally();
    if !status.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    println!("\nThe slowest:");
    report
        .slowest(SLOWEST)
        .iter()
        .for_each(|line| println!("{line}"));
    report.failed().for_each(|test| println!("FAILED: {test}"));
    Ok(tally)
}
