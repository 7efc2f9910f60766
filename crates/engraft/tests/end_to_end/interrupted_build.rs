//! A build that is interrupted or killed leaves nothing: no process of the build command, no
//! directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use engraft_testkit::{TIME_LIMIT, exit};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{engraft, victim};

/// Waits for something that must come; the limit only turns a hang into a failure.
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is_so() {
        ensure!(
            start.elapsed() < TIME_LIMIT,
            "{what}: not within {TIME_LIMIT:?}"
        );
        std::thread::yield_now();
    }
    Ok(())
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// A build whose command has started something that never ends by itself.
struct Endless {
    process: Child,
    /// Where it works.
    temporary: tempfile::TempDir,
    /// What the command started.
    started: Pid,
}

impl Endless {
    fn start() -> Result<Self> {
        let (engraft, victim) = (engraft(), victim("workers")?);
        let temporary = tempfile::tempdir()?;
        let note = temporary.path().join("note");
        fs::create_dir(temporary.path().join("tmp"))?;
        // A grandchild, as compilers are.
        let script = format!(
            "sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 100000'; true",
            note.display()
        );
        // Who runs the tests may have had them ignore an interrupt.
        let mut command = Command::new("env");
        command
            .arg("--default-signal")
            .arg(engraft.program())
            .args(["build", "--source"])
            .arg(victim.source())
            .arg("--patch")
            .arg(victim.source().join("fix.patch"))
            .arg("--binary")
            .arg(victim.file("workers"))
            .args(["--", "sh", "-c", &script])
            .env("TMPDIR", temporary.path().join("tmp"))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn()?;
        wait_for("the build command", || note.exists())?;
        let started = fs::read_to_string(&note)?.trim().parse()?;
        let started = Pid::from_raw(started).context("no process")?;
        Ok(Self {
            process,
            temporary,
            started,
        })
    }
}

#[test]
fn nothing_is_left_of_a_build_that_is_ended() -> Result<()> {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let mut build = Endless::start()?;
        let temporary = build.temporary.path().join("tmp");
        ensure!(
            !entries(&temporary).is_empty(),
            "the build is somewhere else"
        );
        let pid = Pid::from_child(&build.process);
        kill_process(pid, signal)?;
        build.process.wait()?;
        wait_for("the end of what the command started", || {
            test_kill_process(build.started).is_err()
        })?;
        wait_for("the end of the directory", || {
            entries(&temporary).is_empty()
        })?;
    }
    Ok(())
}

/// If even the process that cleans up was killed.
#[test]
fn the_next_build_removes_what_is_left() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let temporary = tempfile::tempdir()?;
    let owner = |name: &str| -> Result<File> {
        let directory = temporary.path().join(name);
        fs::create_dir(&directory)?;
        Ok(File::create(directory.join(".owner"))?)
    };
    drop(owner("engraft-build-left")?);
    drop(owner("something-else")?);
    let used = owner("engraft-build-used")?;
    used.lock()?;
    let mut command = engraft.command(["build"]);
    command
        .arg("--source")
        .arg(victim.source())
        .arg("--patch")
        .arg(victim.source().join("fix.patch"))
        .arg("--binary")
        .arg(victim.file("workers"))
        .args(["--output", "/dev/null", "--", "false"])
        .env("TMPDIR", temporary.path());
    engraft_testkit::run(&mut command, TIME_LIMIT)?.exits(exit::BUILD_FAILED)?;
    let mut left = entries(temporary.path());
    left.sort();
    let expected = ["engraft-build-used", "something-else"].map(|name| temporary.path().join(name));
    ensure!(left == expected, "left: {left:?}");
    Ok(())
}

#[test]
fn what_is_done_is_said_and_the_output_kept() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let temporary = tempfile::tempdir()?;
    let log = temporary.path().join("log");
    let mut command = engraft.command(["build", "--keep", "--log"]);
    command
        .arg(&log)
        .arg("--source")
        .arg(victim.source())
        .arg("--patch")
        .arg(victim.source().join("fix.patch"))
        .arg("--binary")
        .arg(victim.file("workers"))
        .arg("--output")
        .arg(temporary.path().join("fix.engraft"))
        .args(["--", "make"])
        .env("TMPDIR", temporary.path());
    let outcome = engraft_testkit::run(&mut command, TIME_LIMIT)?.exits(exit::OK)?;
    let outcome = outcome.says(&[
        "building the original source: ",
        "building the fixed source: ",
    ])?;
    let kept = entries(temporary.path())
        .into_iter()
        .find(|path| path.is_dir())
        .context("nothing was kept")?;
    outcome.says(&[&kept.to_string_lossy()])?;
    ensure!(kept.join("tree").is_dir(), "no tree in {}", kept.display());
    let log = fs::read_to_string(log)?;
    ensure!(log.contains("== building the fixed source"), "{log}");
    Ok(())
}
