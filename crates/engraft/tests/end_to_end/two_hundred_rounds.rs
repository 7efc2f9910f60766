//! A patch comes and goes two hundred times in a process with fifty threads under load: nobody
//! crashes, and no answer is anything but the old one or the new one.

use anyhow::Result;
use engraft_testkit::{Snapshot, exit};

use crate::{engraft, victim};

const ROUNDS: usize = 200;

#[test]
fn two_hundred_rounds_under_load() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let mut program = victim.start("workers", &["50"])?;
    let pid = program.pid();
    program.expect("round", "old=5000 new=0 wrong=0")?;
    let before = Snapshot::take(pid)?;
    for _ in 0..ROUNDS {
        engraft.apply(&patch, pid)?.exits(exit::OK)?;
        program.expect("round", "old=0 new=5000 wrong=0")?;
        engraft.disable("cheap-apples", pid)?.exits(exit::OK)?;
        program.expect("round", "old=5000 new=0 wrong=0")?;
    }
    before.expect_same_text()?;
    program.finish()
}
