//! A thread that does not leave the function in time: the error names both, the program goes on
//! with its old code, and when the thread has left the same patch is applied.

use anyhow::{Result, ensure};
use engraft_testkit::{Snapshot, TIME_LIMIT, exit, run};

use crate::{engraft, victim};

#[test]
fn a_thread_that_stays_in_the_function_is_named() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("linger")?);
    let patch = victim.patch(&engraft, "fix.patch", "patience", &["linger"])?;
    let mut program = victim.start("linger", &[])?;
    let pid = program.pid().to_string();
    program.expect("version", "1")?;
    program.expect("enter", "inside")?;
    let before = Snapshot::take(program.pid())?;

    // The time-out is what is tested here; the thread stays inside however long it is.
    let mut apply = engraft.command(["apply"]);
    apply.arg(&patch).args(["--pid", &pid, "--timeout", "1"]);
    run(&mut apply, TIME_LIMIT)?
        .exits(exit::TARGET_BUSY)?
        .says(&["lingerer", "linger"])?;
    before.expect_same_text()?;
    program.expect("version", "1")?;
    ensure!(
        engraft.patches(program.pid())?.is_empty(),
        "half a patch is left"
    );

    program.expect("leave", "outside")?;
    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    program.expect("version", "2")?;
    program.expect("enter", "inside")?;
    program.expect("leave", "outside")?;
    program.finish()
}
