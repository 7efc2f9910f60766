//! A patch for a library that is not there yet is a success, which says that it waits.

use anyhow::Result;
use engraft_testkit::exit;

use crate::{engraft, victim};

#[test]
fn a_patch_waits_for_its_library() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("host")?);
    let patch = victim.patch(&engraft, "library.patch", "for-later", &["library.so"])?;
    let mut program = victim.start("host", &[])?;

    let outcome = engraft.apply(&patch, program.pid())?;
    outcome
        .exits(exit::OK)?
        .says(&["nothing to patch", "library.so", "the patch waits"])?;
    program.expect("ask", "a=100 b=-")?;
    program.expect(
        &format!("open {}", victim.file("library.so").display()),
        "opened",
    )?;
    program.expect("seen", "b=101")?;
    program.expect("ask", "a=100 b=101")?;
    program.finish()
}
