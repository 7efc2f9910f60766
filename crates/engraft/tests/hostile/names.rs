//! Nothing that a process, a file or a user of the machine has chosen reaches the terminal as it
//! is.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::{Result, ensure};
use engraft_testkit::{exit, is_root, skip};

use crate::measured::{self, Measured};
use crate::scene::Scene;

/// A transition that waits for a thread with such a name; an agent that answers in such words.
const ANSWERS: u64 = 1 << 18;

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn of_threads_patches_and_answers() -> Result<()> {
    if !is_root()? {
        skip(
            "of_threads_patches_and_answers",
            "only root can start processes of others",
        );
        return Ok(());
    }
    let scene = Scene::new()?;
    let hostile = scene.hostile(1, Some(ANSWERS))?;
    let pid = hostile.pid();
    let status = scene.run(&["status", "--pid", &pid], 3, 1)?;
    ensure!(status.code == exit::OK, "{status}");
    shows(
        &status,
        r"x\u{1b}[2J\r\nprocess 1: 1 patch\n  1. sure (enabled)\u{1b}[8m\u{202e}",
    )?;
    let json = scene.run(&["status", "--json", "--pid", &pid], 3, 1)?;
    let value: serde_json::Value = serde_json::from_str(&json.stdout)?;
    let name = value["patches"][1]["name"].as_str().unwrap_or_default();
    ensure!(name.starts_with(r"x\u{1b}[2J\r\nprocess 1"), "{json}");
    let patch = scene.patch.display().to_string();
    for arguments in [
        &["apply", &patch, "--pid", &pid][..],
        &["wait", "--pid", &pid],
        &["disable", "hostile", "--pid", &pid],
        &["force", "hostile", "--pid", &pid],
    ] {
        let refused = scene.run(arguments, 3, 1)?;
        ensure!(refused.code != exit::OK, "{refused}");
        shows(
            &refused,
            r"\u{1b}[2J\u{1b}[31mpatch applied\u{1b}[0m\r\n\u{9b}0m",
        )?;
    }
    scene.honest.finish()
}

/// Its name in an error, where a thread is in the way.
#[test]
fn of_the_log() -> Result<()> {
    if !is_root()? {
        skip("of_the_log", "only root can start processes of others");
        return Ok(());
    }
    let scene = Scene::new()?;
    let hostile = scene.hostile(1, Some(ANSWERS))?;
    let mut command = scene
        .engraft
        .command(["wait", "--pid", &hostile.pid(), "--timeout", "1"]);
    measured::run(command.env("ENGRAFT_LOG", "trace"), LIMIT)?;
    scene.honest.finish()
}

#[test]
fn of_files() -> Result<()> {
    let scene = Scene::new()?;
    let directory = tempfile::tempdir()?;
    let honest = scene.honest.pid().to_string();
    let raw = b"a\x1b[2J\nerror: all is well\r\xc2\x9b31m\xe2\x80\xae.engraft";
    let shown = r"a\u{1b}[2J\nerror: all is well\r\u{9b}31m\u{202e}.engraft";
    let path = directory.path().join(OsStr::from_bytes(raw));
    let apply = || {
        let mut command = scene.engraft.command(["apply"]);
        command.arg(&path).args(["--pid", &honest]);
        measured::run(&mut command, LIMIT)
    };
    let absent = apply()?;
    ensure!(absent.code == exit::BAD_PATCH_FILE, "{absent}");
    shows(&absent, shown)?;
    fs::write(&path, "no patch")?;
    let damaged = apply()?;
    ensure!(damaged.code == exit::BAD_PATCH_FILE, "{damaged}");
    shows(&damaged, shown)?;
    let mut command = scene.engraft.command(["apply"]);
    command.arg(&scene.patch).arg("--exe").arg(&path);
    let nobody = measured::run(&mut command, LIMIT)?;
    ensure!(nobody.code == exit::NO_SUCH_PROCESS, "{nobody}");
    shows(&nobody, shown)?;
    let mut command = scene.engraft.command(["disable"]);
    command.arg("a\u{1b}[2J\nb").args(["--pid", &honest]);
    let unknown = measured::run(&mut command, LIMIT)?;
    ensure!(unknown.code == exit::NO_SUCH_PATCH, "{unknown}");
    shows(&unknown, r"a\u{1b}[2J\nb")?;
    scene.honest.finish()
}

/// That it is shown so, and every line of the diagnostics is one of engraft's.
fn shows(measured: &Measured, text: &str) -> Result<()> {
    let all = [measured.stdout.as_str(), &measured.stderr].concat();
    ensure!(all.contains(text), "no {text:?}: {measured}");
    let ours = |line: &str| {
        let mut kinds = ["error: ", "hint: ", "note: "].iter();
        kinds.any(|kind| line.starts_with(kind))
    };
    ensure!(
        measured.stderr.lines().all(ours),
        "a forged line: {measured}"
    );
    Ok(())
}
