//! A patch file is an ELF file, whose contents the usual tools show.

use std::process::Command;

use anyhow::{Result, ensure};
use engraft_testkit::{TIME_LIMIT, elf, exit, run};

use crate::{engraft, victim};

#[test]
fn readelf_shows_what_is_in_a_patch_file() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("host")?);
    let patch = victim.patch(&engraft, "p1.patch", "p1", &["host", "library.so"])?;
    let readelf = |arguments: &[&str]| {
        let outcome = run(
            Command::new("readelf").args(arguments).arg(&patch),
            TIME_LIMIT,
        )?;
        let outcome = outcome.exits(exit::OK)?;
        ensure!(
            outcome.stderr.is_empty(),
            "readelf is not content: {outcome}"
        );
        anyhow::Ok(outcome)
    };
    readelf(&["--wide", "--all"])?.says(&["X86-64", ".engraft.manifest"])?;
    let host = elf::build_id(&victim.file("host"))?;
    let library = elf::build_id(&victim.file("library.so"))?;
    readelf(&["--string-dump=.engraft.manifest"])?.says(&["p1", &host, &library])?;
    Ok(())
}

/// The same sources and the same fix make the same file, so that a patch can be checked by making
/// it again.
#[test]
fn a_patch_made_twice_is_the_same_file() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("references")?);
    let make = || {
        let patch = victim.patch(&engraft, "fix.patch", "twice", &["references"])?;
        anyhow::Ok(std::fs::read(patch)?)
    };
    ensure!(make()? == make()?, "the two files differ");
    Ok(())
}
