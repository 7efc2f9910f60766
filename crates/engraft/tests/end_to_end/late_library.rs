//! A library that is loaded after the patch is patched before its constructor runs, with no
//! engraft process alive; closed and opened again, it is patched again.

use std::fs;

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Snapshot, Victim, elf, exit};

use crate::{engraft, victim};

#[test]
fn a_library_loaded_later_is_patched_before_its_constructor() -> Result<()> {
    is_patched_before_its_constructor(&victim("host")?)
}

pub(crate) fn is_patched_before_its_constructor(victim: &Victim) -> Result<()> {
    let engraft = engraft();
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

/// Another file that the loader puts at the same place, under the same address in its lists, is not
/// taken for the one before it.
#[test]
fn a_library_is_patched_after_its_twin_has_gone() -> Result<()> {
    is_patched_after_its_twin_has_gone(&victim("host")?)
}

pub(crate) fn is_patched_after_its_twin_has_gone(victim: &Victim) -> Result<()> {
    let engraft = engraft();
    let patch = victim.patch(&engraft, "p1.patch", "p1", &["host", "library.so"])?;
    // The same in all but the build-id, so that the patch is not for it; a name of the same length.
    let (library, twin) = (victim.file("library.so"), victim.file("another.so"));
    let mut bytes = fs::read(&library)?;
    let build_id = elf::build_id(&library)?;
    let first = u8::from_str_radix(build_id.get(..2).context("no build-id")?, 16)?;
    let is_build_id = |place: &[u8]| place.starts_with(b"GNU\0") && place.ends_with(&[first]);
    let note = bytes.windows(5).position(is_build_id);
    let byte = note.and_then(|note| bytes.get_mut(note + 4));
    *byte.context("no note")? ^= 1;
    fs::write(&twin, bytes)?;
    ensure!(elf::build_id(&twin)? != build_id, "no twin");

    let mut program = victim.start("host", &[])?;
    let open = |file: &std::path::Path| format!("open {}", file.display());
    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    for _ in 0..3 {
        for (file, b) in [(&twin, 100), (&twin, 100), (&library, 101), (&library, 101)] {
            program.expect(&open(file), "opened")?;
            program.expect("seen", &format!("b={b}"))?;
            program.expect("close", "closed")?;
        }
    }
    // A patch that comes while the twin's place is empty, or taken by it.
    engraft.disable("p1", program.pid())?.exits(exit::OK)?;
    program.expect(&open(&library), "opened")?;
    program.expect("close", "closed")?;
    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    program.expect(&open(&library), "opened")?;
    program.expect("ask", "a=101 b=101")?;
    program.expect("close", "closed")?;
    program.expect(&open(&twin), "opened")?;
    engraft.disable("p1", program.pid())?.exits(exit::OK)?;
    program.expect("close", "closed")?;
    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    program.expect(&open(&library), "opened")?;
    program.expect("ask", "a=101 b=101")?;
    program.finish()
}
