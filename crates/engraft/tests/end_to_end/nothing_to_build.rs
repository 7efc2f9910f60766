//! A fix for a function that is not in the binary makes no patch, and says so; neither does a fix
//! that cannot be applied to the source, or a build that fails.

use anyhow::{Result, ensure};
use engraft_testkit::{Outcome, exit};

use crate::{engraft, victim};

/// `other.patch` changes a function that only the program `other` has.
#[test]
fn a_function_that_is_not_in_the_binary_is_named() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let (outcome, patch) = victim.try_patch(&engraft, "other.patch", "elsewhere", &["workers"])?;
    outcome.exits(exit::INCOMPLETE)?.says(&[
        "only_in_other",
        "workers",
        "in the build tree: other",
    ])?;
    ensure!(!patch.exists(), "a patch file was made");
    // It is the binary that does not fit, not the fix.
    victim.patch(&engraft, "other.patch", "elsewhere", &["other"])?;
    Ok(())
}

/// The author wants half of a fix: whoever looks at it is told.
#[test]
fn a_partial_patch_is_called_so_wherever_it_is() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let source = victim.source();
    let fix = std::fs::read_to_string(source.join("fix.patch"))?;
    let other = std::fs::read_to_string(source.join("other.patch"))?;
    std::fs::write(source.join("both.patch"), fix + &other)?;
    let (outcome, patch) = victim.try_patch(&engraft, "both.patch", "half", &["workers"])?;
    outcome.exits(exit::INCOMPLETE)?.says(&["only_in_other"])?;
    ensure!(!patch.exists(), "a patch file was made");
    let output = victim.file("half.engraft");
    let mut command = engraft.command(["build", "--partial", "--name", "half", "--source"]);
    command
        .arg(&source)
        .arg("--patch")
        .arg(source.join("both.patch"))
        .arg("--binary")
        .arg(victim.file("workers"))
        .arg("--output")
        .arg(&output)
        .args(["--", "make"]);
    let said = ["partial: only_in_other of other.c is not in the patch"];
    engraft_testkit::run(&mut command, engraft_testkit::TIME_LIMIT)?
        .exits(exit::OK)?
        .says(&said)?;
    let program = victim.start("workers", &["2"])?;
    let pid = program.pid();
    let file = output.to_string_lossy();
    engraft
        .run(["check", &file, "--pid", &pid.to_string()])?
        .exits(exit::OK)?
        .says(&said)?;
    engraft.apply(&output, pid)?.exits(exit::OK)?;
    ensure!(
        engraft.status(pid)?["patches"][0]["partial"] == true,
        "the status does not say so"
    );
    engraft
        .run(["status", "--pid", &pid.to_string()])?
        .exits(exit::OK)?
        .says(&["half (enabled, partial)"])?;
    Ok(())
}

#[test]
fn a_fix_for_another_source_is_refused() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let host = crate::victims().join("host/p1.patch");
    std::fs::copy(host, victim.source().join("host.patch"))?;
    let (outcome, patch) = victim.try_patch(&engraft, "host.patch", "p1", &["workers"])?;
    outcome.exits(exit::BUILD_FAILED)?.says(&["host.patch"])?;
    ensure!(!patch.exists(), "a patch file was made");
    Ok(())
}

/// Documentation in a fix is no reason against it, and not passed over in silence.
#[test]
fn what_is_not_compiled_is_noted() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    std::fs::write(victim.source().join("NEWS"), "Bugs.\n")?;
    let news = "--- a/NEWS\n+++ b/NEWS\n@@ -1 +1 @@\n-Bugs.\n+None.\n";
    std::fs::write(victim.source().join("news.patch"), news)?;
    let code = std::fs::read_to_string(victim.source().join("fix.patch"))?;
    std::fs::write(victim.source().join("both.patch"), code + news)?;
    let (outcome, patch) = victim.try_patch(&engraft, "both.patch", "both", &["workers"])?;
    outcome.exits(exit::OK)?.says(&["note: ", "NEWS"])?;
    ensure!(patch.exists(), "no patch file was made");
    let (outcome, patch) = victim.try_patch(&engraft, "news.patch", "news", &["workers"])?;
    outcome.exits(exit::BUILD_FAILED)?.says(&["NEWS"])?;
    ensure!(!patch.exists(), "a patch file was made");
    Ok(())
}

#[test]
fn a_build_command_that_fails_is_shown() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let (source, output) = (victim.source(), victim.file("never.engraft"));
    let build = |command: &[&str]| -> Result<Outcome> {
        let fix = source.join("fix.patch");
        engraft.build(
            &source,
            &fix,
            &[victim.file("workers")],
            "never",
            &output,
            command,
        )
    };
    build(&["make", "no-such-goal"])?
        .exits(exit::BUILD_FAILED)?
        .says(&["no-such-goal"])?;
    build(&["no-such-command"])?
        .exits(exit::BUILD_FAILED)?
        .says(&["no-such-command"])?;
    ensure!(!output.exists(), "a patch file was made");
    Ok(())
}
