//! A function that is suspended on no thread's stack goes on in the universe that it began in, and
//! its code stays as long as it may go on there.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use engraft_testkit::{Engraft, Outcome, Program, Victim, exit};

use crate::{engraft, victim, victims};

struct House {
    engraft: Engraft,
    program: Program,
    pid: String,
    patch: PathBuf,
    _victim: Victim,
}

impl House {
    fn new(victim: Victim) -> Result<Self> {
        let engraft = engraft();
        let patch = victim.patch(&engraft, "fix.patch", "fix", &["coroutines"])?;
        let program = victim.start("coroutines", &[])?;
        Ok(Self {
            engraft,
            pid: program.pid().to_string(),
            program,
            patch,
            _victim: victim,
        })
    }

    fn with_swapcontext() -> Result<Self> {
        Self::new(victim("coroutines")?)
    }

    fn with_own_switch() -> Result<Self> {
        let sources = victims().join("coroutines");
        Self::new(Victim::build_with(&sources, &["SWITCH=-DOWN_SWITCH"])?)
    }

    fn run(&self, command: &[&str]) -> Result<Outcome> {
        let at_once = ["--pid", &self.pid, "--timeout", "0"];
        self.engraft.run(command.iter().chain(&at_once))
    }

    fn apply(&self) -> Result<Outcome> {
        self.run(&["apply", &self.patch.to_string_lossy()])
    }
}

/// All of it is new or all of it is old, also if it was suspended in between.
#[test]
fn suspended_by_swapcontext() -> Result<()> {
    let mut house = House::with_swapcontext()?;
    house.program.expect("inside", "inside")?;
    let check = ["check", &house.patch.to_string_lossy(), "--pid", &house.pid];
    house
        .engraft
        .run(check)?
        .exits(exit::OK)?
        .says(&["swapcontext (the program)"])?;
    house.apply()?.exits(exit::TARGET_BUSY)?.says(&[
        "waits for every suspended context to leave function 'begin'",
        "no thread switches while a context is suspended inside",
    ])?;
    let status = house.engraft.status(house.program.pid())?;
    ensure!(status["switchers"][0]["path"] == "", "{status}");
    ensure!(
        status["transition"]["threads"][0]["reason"] == "held",
        "{status}"
    );
    let status = house
        .engraft
        .run(["status", "--pid", &house.pid])?
        .exits(exit::OK)?;
    status.says(&[
        "it switches stacks, by",
        "a context that swapcontext has suspended holds the address",
    ])?;
    house.program.expect("outside", "mixed=0 version=100")?;
    // What was left over on their stacks is not taken for more than it is.
    house.run(&["wait"])?.exits(exit::OK)?;
    house.program.expect("inside", "inside")?;
    house.run(&["disable", "fix"])?.exits(exit::TARGET_BUSY)?;
    house.program.expect("outside", "mixed=0 version=200")?;
    house.run(&["wait"])?.exits(exit::OK)?;
    house.program.expect("inside", "inside")?;
    house.program.expect("outside", "mixed=0 version=100")?;
    house.run(&["remove", "fix"])?.exits(exit::OK)?;
    house.program.finish()
}

/// Stacks of unknown make: what may be left over keeps the universe, until the stacks are gone.
#[test]
fn suspended_by_instructions_of_its_own() -> Result<()> {
    let mut house = House::with_own_switch()?;
    house.program.expect("inside", "inside")?;
    house.apply()?.exits(exit::TARGET_BUSY)?;
    let status = house
        .engraft
        .run(["status", "--pid", &house.pid])?
        .exits(exit::OK)?;
    status.says(&[
        "co_switch (the program)",
        "may be a suspended context's, or left over",
    ])?;
    house.program.expect("outside", "mixed=0 version=100")?;
    house.program.expect("inside", "inside")?;
    house.program.expect("outside", "mixed=0 version=100")?;
    house.program.expect("finish", "finished")?;
    house.run(&["wait"])?.exits(exit::OK)?;
    house.program.finish()
}

/// Without a look at memory, code is taken away that a context is suspended in.
#[test]
fn code_stays_as_long_as_it_may_be_gone_on_with() -> Result<()> {
    for mut house in [House::with_swapcontext()?, House::with_own_switch()?] {
        house
            .apply()?
            .exits(exit::OK)?
            .says(&["contexts may be suspended"])?;
        house.program.expect("inside", "inside")?;
        house
            .run(&["disable", "fix", "--scan-memory=off"])?
            .exits(exit::OK)?;
        house
            .run(&["remove", "fix"])?
            .exits(exit::TARGET_BUSY)?
            .says(&[
                "leads into the memory of patch 'fix'",
                "stays disabled and in memory",
            ])?;
        // Mixed, since nobody looked; but it lives.
        house.program.expect("outside", "mixed=10 version=100")?;
        house.program.expect("finish", "finished")?;
        house.run(&["remove", "fix"])?.exits(exit::OK)?;
        house.program.finish()?;
    }
    Ok(())
}

/// The user may ask for a look at the memory of any program.
#[test]
fn memory_is_looked_at_when_asked_for() -> Result<()> {
    let house = House::with_swapcontext()?;
    house
        .run(&["apply", &house.patch.to_string_lossy(), "--scan-memory=on"])?
        .exits(exit::OK)?;
    house
        .run(&["disable", "fix", "--scan-memory"])?
        .exits(exit::OK)?;
    house
        .run(&["remove", "fix", "--scan-memory=auto"])?
        .exits(exit::OK)?;
    house.program.finish()
}
