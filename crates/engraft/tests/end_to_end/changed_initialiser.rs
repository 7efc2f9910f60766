//! A fix that changes what a variable begins with cannot be a patch of code: the variable is named
//! and no patch file is made.

use anyhow::{Result, ensure};
use engraft_testkit::exit;

use crate::{engraft, victim};

#[test]
fn a_changed_initialiser_is_refused_by_name() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let (outcome, patch) =
        victim.try_patch(&engraft, "initialiser.patch", "cheap-apples", &["workers"])?;
    outcome.exits(exit::BUILD_FAILED)?.says(&["apple"])?;
    ensure!(!patch.exists(), "a patch file was made");
    Ok(())
}
