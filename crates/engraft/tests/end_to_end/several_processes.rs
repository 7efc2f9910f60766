//! One command for several processes: each has its own line of result, a failure in one does not
//! keep the others from their turn, and the command ends with the first failure's code.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Result, ensure};
use engraft_testkit::{Outcome, Program, Snapshot, TIME_LIMIT, Victim, exit, is_root, run, skip};

use crate::{engraft, victim, victims};

const NEW: &str = "7 apples at 2 each cost 14";
const OLD: &str = "7 apples cost 21";

fn workers(victim: &Victim, count: usize) -> Result<Vec<Program>> {
    (0..count)
        .map(|_| victim.start("workers", &["1"]))
        .collect()
}

/// That each of the processes has a line of its own.
fn lines_for(outcome: &Outcome, word: &str, programs: &[Program]) -> Result<()> {
    for program in programs {
        let end = format!("process {}", program.pid());
        let mut lines = outcome.stdout.lines();
        let found = lines.any(|line| line.contains(word) && line.contains(&end));
        ensure!(found, "no line with {word:?} and {end:?} from {outcome}");
    }
    Ok(())
}

#[test]
fn several_numbers() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let mut programs = workers(&victim, 3)?;
    let absent = fs::read_to_string("/proc/sys/kernel/pid_max")?;
    let absent = absent.trim();
    let pids: Vec<_> = programs.iter().map(|it| it.pid().to_string()).collect();

    // The one that does not exist is first, one comes twice.
    let mut apply = engraft.command(["apply"]);
    apply.arg(&patch).args(["--pid", absent]);
    for pid in pids.iter().chain(&pids[..1]) {
        apply.args(["--pid", pid]);
    }
    let outcome = run(&mut apply, TIME_LIMIT)?
        .exits(exit::NO_SUCH_PROCESS)?
        .says(&[&format!("failed in 1 of 4 processes: {absent}")])?;
    lines_for(&outcome, "applied", &programs)?;
    ensure!(!outcome.stdout.contains("already"), "twice: {outcome}");
    for program in &mut programs {
        program.expect("price 7", NEW)?;
    }

    let disable = [
        "disable",
        "cheap-apples",
        "--pid",
        &pids[0],
        "--pid",
        &pids[1],
    ];
    let outcome = engraft.run(disable)?.exits(exit::OK)?;
    lines_for(&outcome, "disabled", &programs[..2])?;
    let prices: Result<Vec<_>> = programs.iter_mut().map(|it| it.ask("price 7")).collect();
    ensure!(prices? == [OLD, OLD, NEW]);
    programs.into_iter().try_for_each(Program::finish)
}

/// The file is meant, not its name: another build under the same path after an update is another
/// file, and the deleted one that still runs is meant by its path.
#[test]
fn every_process_that_runs_a_file() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let file = victim.file("workers");
    let copy = victim.file("copy");
    fs::copy(&file, &copy)?;
    let mut other = Program::start(&copy, &["0"])?.0;
    let mut programs = workers(&victim, 2)?;
    let link = victim.file("link");
    symlink(&file, &link)?;
    let exe = |path: &Path, patch: &Path| {
        let mut apply = engraft.command(["apply"]);
        apply.arg(patch).arg("--exe").arg(path);
        run(&mut apply, TIME_LIMIT)
    };

    let outcome = exe(&link, &patch)?.exits(exit::OK)?;
    lines_for(&outcome, "applied", &programs)?;
    for program in &mut programs {
        program.expect("price 7", NEW)?;
    }
    other.expect("price 7", OLD)?;

    // An update: the old file is deleted, a new build takes its place.
    fs::remove_file(&file)?;
    let update = Victim::build_with(&victims().join("workers"), &["FLAVOUR=-O1"])?;
    fs::copy(update.file("workers"), &file)?;
    programs.push(victim.start("workers", &["0"])?);
    let updated = programs[2].pid().to_string();
    let before = Snapshot::take(programs[2].pid())?;
    let outcome = exe(&file, &patch)?.exits(exit::DOES_NOT_FIT)?;
    lines_for(&outcome, "already applied", &programs[..2])?;
    outcome.says(&[&format!("failed in 1 of 3 processes: {updated}"), &updated])?;
    before.expect_untouched()?;

    // None runs it.
    exe(&victim.file("nobody"), &patch)?
        .exits(exit::NO_SUCH_PROCESS)?
        .says(&["no process runs", "nobody"])?;
    other.expect("price 7", OLD)?;
    other.finish()?;
    programs.into_iter().try_for_each(Program::finish)
}

/// A program of its own build-id, so that no other test's processes are meant.
#[test]
fn every_process_that_has_loaded_an_object() -> Result<()> {
    let engraft = engraft();
    let flavour = format!("FLAVOUR=-O2 -DOWN={}", std::process::id());
    let victim = Victim::build_with(&victims().join("workers"), &[&flavour])?;
    let patch = {
        let output = victim.file("own.engraft");
        let fix = victim.source().join("fix.patch");
        let make = ["make", &flavour];
        let binaries = [victim.file("workers")];
        let built = engraft.build(&victim.source(), &fix, &binaries, "own", &output, &make)?;
        built.exits(exit::OK)?;
        output
    };
    let mut programs = workers(&victim, 2)?;
    // Under another name and in another directory, and deleted: it is what is in memory that
    // counts.
    let copy = victim.source().join("elsewhere");
    fs::copy(victim.file("workers"), &copy)?;
    programs.push(Program::start(&copy, &["1"])?.0);
    fs::remove_file(&copy)?;
    let apply = || {
        let mut apply = engraft.command(["apply"]);
        apply.arg(&patch).arg("--all");
        run(&mut apply, TIME_LIMIT)
    };
    let outcome = apply()?.exits(exit::OK)?;
    lines_for(&outcome, "applied", &programs)?;
    ensure!(outcome.stdout.lines().count() == 3, "{outcome}");
    for program in &mut programs {
        program.expect("price 7", NEW)?;
    }
    // Without --pid: every process that has it.
    // Other tests' processes may be at any point, so that the exit code says nothing about ours.
    let outcome = engraft.run(["status"])?;
    lines_for(&outcome, "1 patch", &programs)?;
    let outcome = engraft.run(["status", "--json"])?;
    let all: serde_json::Value = serde_json::from_str(&outcome.stdout)?;
    for program in &programs {
        let mut listed = all.as_array().into_iter().flatten();
        ensure!(listed.any(|it| it["pid"] == program.pid()), "{all}");
    }
    let named = programs
        .iter()
        .flat_map(|it| ["--pid".to_owned(), it.pid().to_string()]);
    let command = ["status", "--json"]
        .map(str::to_owned)
        .into_iter()
        .chain(named);
    let outcome = engraft.run(command)?.exits(exit::OK)?;
    let all: serde_json::Value = serde_json::from_str(&outcome.stdout)?;
    ensure!(all.as_array().is_some_and(|all| all.len() == 3), "{all}");
    let outcome = engraft.run(["disable", "own"])?.exits(exit::OK)?;
    lines_for(&outcome, "disabled", &programs)?;
    let mut check = engraft.command(["check"]);
    let outcome = run(check.arg(&patch).arg("--all"), TIME_LIMIT)?.exits(exit::OK)?;
    lines_for(&outcome, "can be applied", &programs)?;
    let mut check = engraft.command(["check"]);
    check.arg(&patch).arg("--exe").arg(victim.file("workers"));
    let outcome = run(&mut check, TIME_LIMIT)?.exits(exit::OK)?;
    lines_for(&outcome, "can be applied", &programs[..2])?;
    let again = engraft.run(["disable", "own"])?;
    again
        .exits(exit::NO_SUCH_PATCH)?
        .says(&["no process", "own"])?;
    let outcome = engraft.run(["enable", "own"])?.exits(exit::OK)?;
    lines_for(&outcome, "enabled", &programs)?;
    for program in &mut programs {
        program.expect("price 7", NEW)?;
    }
    let refused = engraft.run(["remove", "own"])?.exits(exit::WRONG_STATE)?;
    refused.says(&["failed in 3 of 3 processes"])?;
    engraft.run(["disable", "own"])?.exits(exit::OK)?;
    let outcome = engraft.run(["remove", "own"])?.exits(exit::OK)?;
    lines_for(&outcome, "removed", &programs)?;
    engraft.run(["remove", "own"])?.exits(exit::NO_SUCH_PATCH)?;

    programs.into_iter().try_for_each(Program::finish)?;
    apply()?
        .exits(exit::NO_SUCH_PROCESS)?
        .says(&["no process has loaded", "own"])?;
    Ok(())
}

/// In another mount namespace the path means another file, and device and inode say nothing.
#[test]
fn a_file_in_another_mount_namespace() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    if !is_root()? {
        skip(
            "a_file_in_another_mount_namespace",
            "only root can make a mount namespace",
        );
        return Ok(());
    }
    let update = Victim::build_with(&victims().join("workers"), &["FLAVOUR=-O1"])?;
    let script = "mount -t tmpfs none $(dirname $1) && cp $0 $1 && exec $1 0";
    let start = |from: &Path| {
        let elsewhere = victim.source().join("elsewhere");
        fs::copy(from, &elsewhere)?;
        let file = victim.file("workers");
        let files = [elsewhere.as_os_str(), file.as_os_str()];
        let arguments = ["-m", "sh", "-c", script].map(OsStr::new);
        Program::start(Path::new("unshare"), &[&arguments[..], &files].concat())
    };
    let (mut same, _) = start(&victim.file("workers"))?;
    let (mut other, _) = start(&update.file("workers"))?;

    let mut apply = engraft.command(["apply"]);
    apply.arg(&patch).arg("--exe").arg(victim.file("workers"));
    let outcome = run(&mut apply, TIME_LIMIT)?.exits(exit::OK)?;
    same.expect("price 7", NEW)?;
    other.expect("price 7", OLD)?;
    let programs = [same];
    lines_for(&outcome, "applied", &programs)?;
    other.finish()?;
    programs.into_iter().try_for_each(Program::finish)
}
