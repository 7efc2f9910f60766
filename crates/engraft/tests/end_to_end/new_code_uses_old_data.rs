//! New code works on the program's own variables, calls its functions and libc, brings data of its
//! own, and sees the same function addresses as the old code.

use anyhow::Result;
use engraft_testkit::{Snapshot, exit};

use crate::{engraft, victim};

#[test]
fn new_code_uses_old_data() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("references")?);
    let patch = victim.patch(&engraft, "fix.patch", "strict-numbers", &["references"])?;
    let mut program = victim.start("references", &[])?;
    program.expect("add 5", "total 5")?;
    program.expect("add 12x", "total 17")?;
    let before = Snapshot::take(program.pid())?;

    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    // `total` and `calls` go on from where they were; `refused` begins with the patch.
    program.expect("add 12x", "refused small, 1 of 3")?;
    program.expect("add ", "refused odd, 2 of 4")?;
    program.expect("add 99999999999999999999", "refused big, 3 of 5")?;
    program.expect("add -7", "total 10 signed coins")?;
    // The old main() sets the global that the new code reads through the old clamp().
    program.expect("limit 7", "coins")?;
    program.expect("add 99", "total 17 big coins")?;
    program.expect("pointers", "equal")?;

    engraft
        .disable("strict-numbers", program.pid())?
        .exits(exit::OK)?;
    program.expect("add 1x", "total 18")?;
    program.expect("pointers", "equal")?;
    before.expect_same_text()?;
    program.finish()
}
