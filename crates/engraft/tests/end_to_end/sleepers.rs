//! A thread asleep in a system call sleeps on, whatever call it is: the program sees no EINTR that
//! we caused, and each one that its own signals cause.

use anyhow::Result;
use engraft_testkit::{Program, Snapshot, exit, skip};

use crate::{engraft, victim};

const ROUNDS: usize = 10;

#[test]
fn no_sleep_is_interrupted_and_every_signal_is_felt() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("sleepers")?);
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["sleepers"])?;
    let (mut program, said) = Program::start::<&str>(&victim.file("sleepers"), &[])?;
    if said != "ready" {
        skip(
            "no_sleep_is_interrupted_and_every_signal_is_felt (in part)",
            &said,
        );
    }
    let pid = program.pid();
    let before = Snapshot::take(pid)?;
    for _ in 0..ROUNDS {
        engraft.apply(&patch, pid)?.exits(exit::OK)?;
        program.expect("ask", "a=101")?;
        engraft.disable("fix", pid)?.exits(exit::OK)?;
        program.expect("ask", "a=100")?;
    }
    before.expect_same_text()?;
    program.expect("early", "none")?;
    program.expect("signal", "all EINTR")?;
    program.finish()
}
