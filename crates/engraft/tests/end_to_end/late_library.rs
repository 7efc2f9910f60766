//! A library that is loaded after the patch is patched before its constructor runs, with no
//! engraft process alive; closed and opened again, it is patched again.

use anyhow::{Result, ensure};
use engraft_testkit::{Snapshot, exit};

use crate::{engraft, victim};

#[test]
fn a_library_loaded_later_is_patched_before_its_constructor() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("host")?);
    let patch = victim.patch(&engraft, "p1.patch", "p1", &["host", "library.so"])?;
    let mut program = victim.start("host", &[])?;
    let open = format!("open {}", victim.file("library.so").display());
    program.expect("ask", "a=100 b=-")?;

    // The command has ended when this returns; whatever patches the library is in the process.
    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    for _ in 0..3 {
        program.expect("ask", "a=101 b=-")?;
        program.expect(&open, "opened")?;
        program.expect("seen", "b=101")?;
        program.expect("ask", "a=101 b=101")?;
        program.expect("close", "closed")?;
    }

    engraft.disable("p1", program.pid())?.exits(exit::OK)?;
    program.expect(&open, "opened")?;
    program.expect("seen", "b=100")?;
    program.expect("ask", "a=100 b=100")?;
    program.finish()
}

/// Disabling reaches a library that was not there when the patch was applied.
#[test]
fn a_library_loaded_later_gets_its_own_bytes_back() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("host")?);
    let patch = victim.patch(&engraft, "p1.patch", "p1", &["host", "library.so"])?;
    let mut program = victim.start("host", &[])?;
    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    program.expect(
        &format!("open {}", victim.file("library.so").display()),
        "opened",
    )?;
    program.expect("ask", "a=101 b=101")?;

    engraft.disable("p1", program.pid())?.exits(exit::OK)?;
    program.expect("ask", "a=100 b=100")?;
    let text = Snapshot::take(program.pid())?;
    ensure!(
        text.text_bytes_unlike_files()? == 0,
        "some code is not that of its file"
    );
    program.finish()
}
