//! Applying a patch that is already there is a success, says so, and changes nothing.

use anyhow::{Result, ensure};
use engraft_testkit::{Snapshot, exit};

use crate::{engraft, victim};

#[test]
fn the_same_patch_twice_is_a_success() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let mut program = victim.start("workers", &["0"])?;
    let pid = program.pid();
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect("price 7", "7 apples at 2 each cost 14")?;

    let before = Snapshot::take(pid)?;
    engraft
        .apply(&patch, pid)?
        .exits(exit::OK)?
        .says(&["already applied"])?;
    before.expect_untouched()?;
    ensure!(engraft.patches(pid)? == ["cheap-apples"]);

    // One disable is enough.
    engraft.disable("cheap-apples", pid)?.exits(exit::OK)?;
    program.expect("price 7", "7 apples cost 21")?;
    program.finish()
}
