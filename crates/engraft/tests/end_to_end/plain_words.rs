//! An error says what is the matter in words of its own, not in those of the step that happened to
//! meet it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use engraft_testkit::{TIME_LIMIT, exit, run, skip};

use crate::{engraft, victim};

/// A process whose control group keeps it frozen.
#[test]
fn frozen() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let program = victim.start("workers", &["1"])?;
    let group = match Frozen::new(program.pid()) {
        Ok(group) => group,
        Err(error) => {
            let reason = format!("no control group that freezes: {error:#}");
            skip("plain_words::frozen", &reason);
            return Ok(());
        }
    };
    for command in [&["apply", "--timeout", "1"][..], &["check"]] {
        let mut command = engraft.command(command);
        command
            .arg(&patch)
            .args(["--pid", &program.pid().to_string()]);
        let outcome = run(&mut command, TIME_LIMIT)?.exits(exit::TARGET_BUSY)?;
        let outcome = outcome.says(&["is frozen by its control group", "engraft-test-"])?;
        ensure!(!outcome.stderr.contains('{'), "no words: {outcome}");
    }
    drop(group);
    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    program.finish()
}

/// A control group of the first version, frozen; thawed and taken away with the value.
struct Frozen(PathBuf);

impl Frozen {
    fn new(pid: u32) -> Result<Self> {
        let group = Path::new("/sys/fs/cgroup/freezer").join(format!("engraft-test-{pid}"));
        fs::create_dir(&group)?;
        let group = Self(group);
        fs::write(group.0.join("cgroup.procs"), pid.to_string())?;
        group.set("FROZEN")?;
        // What the kernel says while threads are still on their way.
        while fs::read_to_string(group.0.join("freezer.state"))?.trim() != "FROZEN" {
            std::thread::yield_now();
        }
        Ok(group)
    }

    fn set(&self, state: &str) -> Result<()> {
        Ok(fs::write(self.0.join("freezer.state"), state)?)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.set("THAWED").ok();
        // Only empty groups can be taken away.
        let processes = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines() {
            fs::write("/sys/fs/cgroup/freezer/cgroup.procs", pid).ok();
        }
        fs::remove_dir(&self.0).ok();
    }
}

/// A process that runs another program while the command is at work: that is said, and nothing
/// about its memory.
#[test]
fn another_program_in_the_middle() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("again")?);
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["again"])?;
    let program = victim.start("again", &[])?;
    let pid = program.pid().to_string();
    for _ in 0..30 {
        for command in ["check", "apply"] {
            let mut command = engraft.command([command]);
            command.arg(&patch).args(["--pid", &pid, "--timeout", "5"]);
            let outcome = run(&mut command, TIME_LIMIT)?;
            let is_said = match outcome.code {
                Some(exit::OK) => true,
                Some(exit::NO_SUCH_PROCESS) => outcome.stderr.contains("another program"),
                _ => false,
            };
            ensure!(is_said, "other words from {outcome}");
        }
    }
    Ok(())
}
