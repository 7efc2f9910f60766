//! A multi-threaded program gets the new code and, when the patch is disabled, its own bytes back.

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Snapshot, elf, exit};

use crate::{engraft, victim};

#[test]
fn a_running_program_gets_new_code_and_its_own_bytes_back() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let mut program = victim.start("workers", &["8"])?;
    let pid = program.pid();
    program.expect("round", "old=800 new=0 wrong=0")?;
    let before = Snapshot::take(pid)?;

    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect("price 7", "7 apples at 2 each cost 14")?;
    program.expect("round", "old=0 new=800 wrong=0")?;
    ensure!(
        before.text_bytes_changed(&Snapshot::take(pid)?) > 0,
        "no code was changed"
    );
    ensure!(engraft.patches(pid)? == ["cheap-apples"]);

    engraft.disable("cheap-apples", pid)?.exits(exit::OK)?;
    program.expect("price 7", "7 apples cost 21")?;
    program.expect("round", "old=800 new=0 wrong=0")?;
    before.expect_same_text()?;
    ensure!(
        program.threads()? == 9,
        "the program has other threads than before"
    );
    program.finish()
}

/// What `status` says is what the process holds.
#[test]
fn the_status_says_what_the_process_runs() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let program = victim.start("workers", &["2"])?;
    let pid = program.pid();
    ensure!(
        engraft.status(pid)?["agent"].is_null(),
        "an agent before the first patch"
    );

    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    let status = engraft.status(pid)?;
    ensure!(status["pid"] == pid, "{status}");
    let memory = status["agent"]["memory_bytes"]
        .as_u64()
        .context("no agent")?;
    ensure!(memory <= 128 * 1024, "the agent takes {memory} bytes");
    let patch = &status["patches"][0];
    ensure!(
        patch["name"] == "cheap-apples" && patch["order"] == 1,
        "{status}"
    );
    ensure!(patch["state"] == "enabled", "{status}");
    let object = &patch["objects"][0];
    ensure!(object["file_name"] == "workers", "{status}");
    ensure!(
        object["build_id"] == elf::build_id(&victim.file("workers"))?,
        "{status}"
    );
    ensure!(
        object["functions"] == serde_json::json!(["price"]),
        "{status}"
    );
    ensure!(object["modules"][0]["patched"] == true, "{status}");

    engraft.disable("cheap-apples", pid)?.exits(exit::OK)?;
    let patches = engraft.patches(pid)?;
    ensure!(patches.is_empty(), "{patches:?} are left");
    engraft
        .disable("cheap-apples", pid)?
        .exits(exit::NO_SUCH_PATCH)?
        .says(&["cheap-apples"])?;
    program.finish()
}
