//! Functions that are shorter than the jump to new code are refused by name, unless there is
//! padding behind them; of those that have just enough bytes, no byte of the neighbour is touched,
//! be it code or the program's .fini.

use anyhow::{Result, ensure};
use engraft_testkit::{Snapshot, Victim, exit};

use crate::{engraft, victims};

const NAMES: [&str; 2] = ["fix", "last"];

#[test]
fn three_bytes_are_too_few() -> Result<()> {
    let engraft = engraft();
    let victim = Victim::build_with(&victims().join("short"), &[])?;
    for (name, function) in NAMES.into_iter().zip(["first", "last"]) {
        let fix = format!("{name}.patch");
        let (outcome, file) = victim.try_patch(&engraft, &fix, name, &["short"])?;
        outcome
            .exits(exit::BUILD_FAILED)?
            .says(&[function, "has 3 bytes", "needs 5"])?;
        ensure!(!file.exists(), "there is a patch all the same");
    }
    Ok(())
}

/// Functions begin on boundaries of 16 bytes, and the compiler fills up what is in between.
#[test]
fn three_bytes_and_padding_are_enough() -> Result<()> {
    let engraft = engraft();
    let victim = Victim::build_with(&victims().join("short"), &["KIND=-O2"])?;
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["short"])?;
    let mut program = victim.start("short", &[])?;
    let pid = program.pid();
    program.expect("", "first=0 neighbour=2 last=0")?;
    let before = Snapshot::take(pid)?;
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect("", "first=1000 neighbour=2 last=0")?;
    engraft.disable("fix", pid)?.exits(exit::OK)?;
    program.expect("", "first=0 neighbour=2 last=0")?;
    before.expect_same_text()?;
    program.finish()
}

#[test]
fn six_bytes_are_enough() -> Result<()> {
    let engraft = engraft();
    let victim = Victim::build_with(&victims().join("short"), &["KIND=-DVALUE=7"])?;
    let mut patches = Vec::new();
    for name in NAMES {
        patches.push(victim.patch(&engraft, &format!("{name}.patch"), name, &["short"])?);
    }
    let mut program = victim.start("short", &[])?;
    let pid = program.pid();
    let old = "first=7 neighbour=2 last=7";
    program.expect("", old)?;
    let before = Snapshot::take(pid)?;
    engraft.apply(&patches[0], pid)?.exits(exit::OK)?;
    program.expect("", "first=1000 neighbour=2 last=7")?;
    engraft.apply(&patches[1], pid)?.exits(exit::OK)?;
    program.expect("", "first=1000 neighbour=2 last=1000")?;
    // A jump is five bytes long, and there is one more in the loader.
    let changed = before.text_bytes_changed(&Snapshot::take(pid)?);
    ensure!(changed <= 15, "{changed} bytes have changed");
    // A normal end goes through .fini.
    program.finish()?;

    let mut program = victim.start("short", &[])?;
    let pid = program.pid();
    let before = Snapshot::take(pid)?;
    for (patch, name) in patches.iter().zip(NAMES) {
        engraft.apply(patch, pid)?.exits(exit::OK)?;
        engraft.disable(name, pid)?.exits(exit::OK)?;
    }
    program.expect("", old)?;
    before.expect_same_text()?;
    program.finish()
}
