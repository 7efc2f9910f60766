//! A thread in an event loop to which nothing happens wakes once a second. The system call in which
//! it sleeps waits for its full timeout again after each stop, so the command has to leave the
//! thread alone for long enough.

use anyhow::Result;
use engraft_testkit::exit;

use crate::{engraft, victim};

#[test]
fn a_call_that_waits_from_the_beginning_after_each_stop_comes_to_its_end() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("idle_loop")?);
    let patch = victim.patch(&engraft, "fix.patch", "idle-loop", &["idle_loop"])?;
    let mut program = victim.start("idle_loop", &[])?;
    program.expect("turn", "1")?;

    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    program.expect("turn", "2")?;

    engraft
        .disable("idle-loop", program.pid())?
        .exits(exit::OK)?;
    program.expect("turn", "1")?;
    program.finish()
}
