//! A file that is no patch file, or not all of one, or not as it was made, is refused for what it
//! is, and the process is not touched.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use engraft_testkit::{Engraft, Program, Snapshot, Victim, exit};

use crate::{engraft, victim};

const PLACES: usize = 16;

struct Scene {
    engraft: Engraft,
    victim: Victim,
    program: Program,
}

impl Scene {
    fn new() -> Result<Self> {
        let victim = victim("workers")?;
        let program = victim.start("workers", &["0"])?;
        Ok(Self {
            engraft: engraft(),
            victim,
            program,
        })
    }

    fn good_patch(&self) -> Result<Vec<u8>> {
        let patch = self
            .victim
            .patch(&self.engraft, "fix.patch", "cheap-apples", &["workers"])?;
        Ok(fs::read(patch)?)
    }

    /// Applies a file with this content, which must be refused.
    fn refuses(&self, content: &[u8]) -> Result<()> {
        let file = self.victim.file("bad.engraft");
        fs::write(&file, content)?;
        self.refuses_file(&file)
    }

    fn refuses_file(&self, file: &Path) -> Result<()> {
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .context("no file name")?;
        let before = Snapshot::take(self.program.pid())?;
        let outcome = self.engraft.apply(file, self.program.pid())?;
        outcome.exits(exit::BAD_PATCH_FILE)?.says(&[name])?;
        before.expect_untouched()
    }
}

#[test]
fn a_file_that_is_no_patch_file_is_refused() -> Result<()> {
    let scene = Scene::new()?;
    scene.refuses(b"")?;
    scene.refuses(b"A text file.\n")?;
    // An ELF file, but no patch.
    scene.refuses_file(&scene.victim.file("workers"))?;
    scene.program.finish()
}

#[test]
fn a_truncated_patch_file_is_refused() -> Result<()> {
    let scene = Scene::new()?;
    let good = scene.good_patch()?;
    for place in 0..PLACES {
        let length = good.len() * place / PLACES;
        scene
            .refuses(&good[..length])
            .with_context(|| format!("cut at {length}"))?;
    }
    scene.refuses(&good[..good.len() - 1])?;
    scene.program.finish()
}

#[test]
fn a_damaged_patch_file_is_refused() -> Result<()> {
    let scene = Scene::new()?;
    let good = scene.good_patch()?;
    for place in 0..PLACES {
        let mut damaged = good.clone();
        let index = good.len() * place / PLACES;
        damaged[index] ^= 0x40;
        scene
            .refuses(&damaged)
            .with_context(|| format!("damaged at {index}"))?;
    }
    scene.program.finish()
}
