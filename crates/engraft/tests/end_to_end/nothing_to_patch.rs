//! A process that has loaded nothing that the patch changes is not said to be patched, and nobody
//! in it is waited for: the patch waits. Where nothing can come any more, it is refused.

use std::path::Path;

use anyhow::{Result, ensure};
use engraft_testkit::{Engraft, Outcome, Snapshot, TIME_LIMIT, Victim, exit, run};

use crate::{engraft, victim};

fn check(engraft: &Engraft, patch: &Path, pid: u32) -> Result<Outcome> {
    let mut check = engraft.command(["check"]);
    run(
        check.arg(patch).args(["--pid", &pid.to_string()]),
        TIME_LIMIT,
    )
}

/// On a stack that nothing shows to be its own, no thread could be told to be clear of old code.
/// But there is none.
#[test]
fn the_patch_waits_whatever_the_stacks_look_like() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("abroad")?);
    let patch = victim.patch(&engraft, "library.patch", "for-later", &["library.so"])?;
    let mut program = victim.start("abroad", &[])?;
    let pid = program.pid();
    let words = |waits: &str| {
        format!("nothing to patch in process {pid}: it has loaded none of library.so (build-id ")
            + &format!("{}); the patch {waits}", build_id(&victim))
    };
    let says = |outcome: Outcome, waits: &str| {
        let outcome = outcome.exits(exit::OK)?.says(&[&words(waits)])?;
        let claims =
            outcome.stdout.contains("can be applied") || outcome.stdout.contains("applied to");
        ensure!(!claims, "too much is claimed by {outcome}");
        Ok(())
    };
    says(check(&engraft, &patch, pid)?, "would wait")?;
    says(engraft.apply(&patch, pid)?, "waits")?;
    let status = engraft.status(pid)?;
    ensure!(status["transition"].is_null(), "{status}");
    ensure!(status["patches"][0]["state"] == "enabled", "{status}");
    let open = format!("open {}", victim.file("library.so").display());
    // Away and back again, without anything to leave.
    engraft.disable("for-later", pid)?.exits(exit::OK)?;
    let pid_text = pid.to_string();
    says(
        engraft.run(["enable", "for-later", "--pid", &pid_text])?,
        "waits",
    )?;
    program.expect(&open, "opened")?;
    program.expect("ask", "b=101")?;
    program.finish()
}

fn build_id(victim: &Victim) -> String {
    engraft_testkit::elf::build_id(&victim.file("library.so")).unwrap_or_default()
}

/// A static program loads no library, and if it does, nobody sees it.
#[test]
fn a_static_program_is_refused() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("abroad")?);
    let patch = victim.patch(&engraft, "library.patch", "for-nobody", &["library.so"])?;
    let program = victim.start("alone", &[])?;
    let pid = program.pid();
    let before = Snapshot::take(pid)?;
    let words = format!("nothing to patch in process {pid}");
    for outcome in [check(&engraft, &patch, pid)?, engraft.apply(&patch, pid)?] {
        let outcome = outcome.exits(exit::DOES_NOT_FIT)?;
        outcome.says(&[&words, "library.so", "static program"])?;
    }
    before.expect_untouched()?;
    program.finish()
}
