//! What may not be looked at is passed over with `--all` and in `status`, and said to be.

use std::os::unix::process::CommandExt;

use anyhow::Result;
use engraft_testkit::{Engraft, Snapshot, TIME_LIMIT, exit, is_root, run, skip};

use crate::bad_targets::copy_for_all;
use crate::{engraft, victim};

/// A user who owns no other process: other tests run processes as nobody.
const SOMEBODY: u32 = 65_533;

#[test]
fn processes_of_others_are_counted() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let program = victim.start("workers", &["0"])?;
    if !is_root()? {
        skip(
            "processes_of_others_are_counted",
            "only root can run engraft as another user",
        );
        return Ok(());
    }
    // The workspace may lie where other users cannot look.
    let [engraft, patch] = [engraft.program(), &patch].map(|file| copy_for_all(file, &victim));
    let (engraft, patch) = (Engraft::new(engraft?), patch?);
    let before = Snapshot::take(program.pid())?;
    let note = "processes could not be looked at: no permission for";

    let mut apply = engraft.command(["apply"]);
    apply.arg(&patch).arg("--all").uid(SOMEBODY).gid(SOMEBODY);
    run(&mut apply, TIME_LIMIT)?
        .exits(exit::NO_SUCH_PROCESS)?
        .says(&[note, "no process has loaded", "cheap-apples"])?;
    let mut status = engraft.command(["status"]);
    run(status.uid(SOMEBODY).gid(SOMEBODY), TIME_LIMIT)?
        .exits(exit::OK)?
        .says(&[note])?;
    before.expect_untouched()?;
    program.finish()
}
