//! A library that the program is linked with is patched like the program itself.

use anyhow::Result;
use engraft_testkit::{Snapshot, exit};

use crate::{engraft, victim};

#[test]
fn a_library_loaded_at_start_is_patched() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("needed")?);
    let patch = victim.patch(&engraft, "fix.patch", "welcome", &["libgreet.so"])?;
    let mut program = victim.start("program", &[])?;
    program.expect("you", "Goodbye, you")?;
    let before = Snapshot::take(program.pid())?;

    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    program.expect("you", "Welcome, you!")?;

    engraft.disable("welcome", program.pid())?.exits(exit::OK)?;
    program.expect("you", "Goodbye, you")?;
    before.expect_same_text()?;
    program.finish()
}
