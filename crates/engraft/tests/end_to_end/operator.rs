//! What the operator's shell does to the command and to the program: limits, and kill at any
//! moment.
//!
//! `ENGRAFT_LONG_TESTS=1` makes the moments at which a program with hundreds of threads is killed
//! twenty.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Outcome, Program, Snapshot, TIME_LIMIT, exit, run};

use crate::transition::House;
use crate::{engraft, victim};

/// Without a limit of the stack, the kernel lays a process out upwards, the old way.
#[test]
fn no_limit_of_the_stack() -> Result<()> {
    under("ulimit -S -s unlimited", "ulimit -S -s unlimited")
}

#[test]
fn little_memory_for_the_command() -> Result<()> {
    under(":", "ulimit -v 200000")
}

#[test]
fn no_limit_of_the_commands_stack() -> Result<()> {
    under(":", "ulimit -S -s unlimited")
}

#[test]
fn the_command_may_write_no_file() -> Result<()> {
    under(":", "ulimit -f 0")
}

#[test]
fn few_open_files_for_the_command() -> Result<()> {
    under(":", "ulimit -n 12")
}

#[test]
fn no_locked_memory_and_no_core() -> Result<()> {
    under(
        "ulimit -l 0; ulimit -c 0",
        "ulimit -l 0; ulimit -c 0; ulimit -s 1024",
    )
}

/// Nothing of ours may bring SIGXFSZ over a program that may write no files.
#[test]
fn the_program_may_write_no_file() -> Result<()> {
    limited(&["--fsize=0"])
}

/// As a server at its limit of open files.
#[test]
fn the_program_may_open_no_file() -> Result<()> {
    limited(&["--nofile=3"])
}

#[test]
fn the_program_may_lock_no_memory_and_make_no_thread() -> Result<()> {
    limited(&["--memlock=0", "--nproc=1", "--core=0"])
}

/// There is no memory to be had: an error in words, and the program is what it was.
#[test]
fn the_program_gets_no_memory() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("answer")?);
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["answer"])?;
    let mut program = victim.start("answer", &[])?;
    let pid = program.pid();
    program.expect("seven", "old: seven, 1")?;
    set_limits(pid, &["--as=4096:unlimited"])?;
    let before = Snapshot::take(pid)?;
    let outcome = engraft.apply(&patch, pid)?.exits(exit::NOT_PATCHABLE)?;
    outcome.says(&["allocate memory", "address space", "limited to 4096 bytes"])?;
    before.expect_untouched()?;
    program.expect("seven", "old: seven, 2")?;
    set_limits(pid, &["--as=unlimited:unlimited"])?;
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect("seven", "new: seven, 3")?;
    program.finish()
}

/// Applies and disables with limits of the program that it has got after its start.
fn limited(limits: &[&str]) -> Result<()> {
    let (engraft, victim) = (engraft(), victim("answer")?);
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["answer"])?;
    let mut program = victim.start("answer", &[])?;
    let pid = program.pid();
    program.expect("seven", "old: seven, 1")?;
    set_limits(pid, limits)?;
    let before = Snapshot::take(pid)?;
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect("seven", "new: seven, 2")?;
    engraft.disable("fix", pid)?.exits(exit::OK)?;
    program.expect("seven", "old: seven, 3")?;
    before.expect_same_text()?;
    program.finish()
}

pub(crate) fn set_limits(pid: u32, limits: &[&str]) -> Result<()> {
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &pid.to_string()]).args(limits);
    run(&mut prlimit, TIME_LIMIT)?.exits(exit::OK)?;
    Ok(())
}

/// Applies and disables, the program and the command each started after a shell command.
fn under(for_program: &str, for_command: &str) -> Result<()> {
    let (engraft, victim) = (engraft(), victim("answer")?);
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["answer"])?;
    let script = format!("{for_program}; exec {}", victim.file("answer").display());
    let (mut program, _) = Program::start(Path::new("sh"), &["-c", &script])?;
    let pid = program.pid();
    let before = Snapshot::take(pid)?;
    let script = format!("{for_command}; exec \"$@\"");
    let limited = |arguments: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(engraft.program());
        command.args(arguments).args(["--pid", &pid.to_string()]);
        run(&mut command, TIME_LIMIT)
    };
    program.expect("seven", "old: seven, 1")?;
    let applied = limited(&["apply", patch.to_str().context("a path that is no text")?])?;
    applied.exits(exit::OK)?;
    program.expect("seven", "new: seven, 2")?;
    limited(&["disable", "fix"])?.exits(exit::OK)?;
    program.expect("seven", "old: seven, 3")?;
    before.expect_same_text()?;
    program.finish()
}

/// Whenever the program is killed, the command ends soon and says so, and nobody keeps the process.
#[test]
fn the_program_is_killed_at_any_moment() -> Result<()> {
    /// Far above what it takes, far below what a hang takes.
    const SOON: Duration = Duration::from_secs(10);
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let mut program = victim.start("workers", &["300"])?;
    program.expect("round", "old=30000 new=0 wrong=0")?;
    let whole = engraft.apply(&patch, program.pid())?.exits(exit::OK)?.took;
    // Its threads would compute beside those of the programs to come.
    drop(program);
    let moments = match std::env::var_os("ENGRAFT_LONG_TESTS") {
        Some(_) => 20,
        None => 6,
    };
    for moment in 0..moments {
        let program = victim.start("workers", &["300"])?;
        let pid = program.pid();
        let (engraft, patch) = (engraft.clone(), patch.clone());
        let started = Instant::now();
        let apply = std::thread::spawn(move || engraft.apply(&patch, pid));
        // The moments are spread over the time that it takes undisturbed; any is right.
        while started.elapsed() < whole * moment / moments {
            std::thread::yield_now();
        }
        drop(program);
        let killed = Instant::now();
        let outcome: Outcome = apply.join().ok().context("the thread panicked")??;
        ensure!(killed.elapsed() < SOON, "it took too long: {outcome}");
        let code = outcome.code;
        ensure!(
            [Some(exit::OK), Some(exit::NO_SUCH_PROCESS)].contains(&code),
            "moment {moment}: {outcome}"
        );
        ensure!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "{pid} is still there"
        );
    }
    Ok(())
}

/// While a command waits for a thread that is inside.
#[test]
fn the_program_is_killed_while_a_command_waits() -> Result<()> {
    /// Far above what it takes, far below the patience of the command.
    const SOON: Duration = Duration::from_secs(10);
    let mut house = House::new()?;
    house.start("sleep")?;
    let (engraft, patch, pid) = (house.engraft.clone(), house.patch.clone(), house.pid);
    let apply = std::thread::spawn(move || engraft.apply(&patch, pid));
    while house.program.ask("a")? != "a=101" {
        ensure!(!apply.is_finished(), "{:?}", apply.join());
    }
    house.expect_state(pid, "enabling", 1)?;
    drop(house.program);
    let killed = Instant::now();
    let outcome = apply.join().ok().context("the thread panicked")??;
    ensure!(killed.elapsed() < SOON, "it took too long: {outcome}");
    outcome
        .exits(exit::NO_SUCH_PROCESS)?
        .says(&[&pid.to_string()])?;
    Ok(())
}

/// Whenever the command is killed, the program goes on as it was or as it should become, and the
/// next command works.
#[test]
fn the_command_is_killed_at_any_moment() -> Result<()> {
    const MOMENTS: u32 = 30;
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let start = || victim.start("workers", &["20"]);
    let (old, new) = ("old=2000 new=0 wrong=0", "old=0 new=2000 wrong=0");
    let program = start()?;
    let apply = engraft.apply(&patch, program.pid())?.exits(exit::OK)?.took;
    let disable = engraft
        .disable("cheap-apples", program.pid())?
        .exits(exit::OK)?
        .took;
    let mut killed = 0;
    for moment in 0..MOMENTS {
        let mut program = start()?;
        let pid = program.pid();
        let before = Snapshot::take(pid)?;
        let mut command = engraft.command(["apply"]);
        command.arg(&patch).args(["--pid", &pid.to_string()]);
        killed += u32::from(kill_after(&mut command, apply * moment / MOMENTS)?);
        program.expect_one_of("round", &[old, new])?;
        let next = engraft.apply(&patch, pid)?.exits(exit::OK);
        next.with_context(|| format!("killed at moment {moment}"))?;
        program.expect("round", new)?;

        let mut command = engraft.command(["disable", "cheap-apples"]);
        command.args(["--pid", &pid.to_string()]);
        killed += u32::from(kill_after(&mut command, disable * moment / MOMENTS)?);
        program.expect_one_of("round", &[old, new])?;
        match moment % 2 {
            // The state that it was on the way to, or the one that it came from.
            0 => {
                engraft.apply(&patch, pid)?.exits(exit::OK)?;
                program.expect("round", new)?;
                engraft.disable("cheap-apples", pid)?.exits(exit::OK)?;
            }
            _ => {
                let outcome = engraft.disable("cheap-apples", pid)?;
                let code = outcome.code;
                // It may have been done already.
                ensure!(
                    [Some(exit::OK), Some(exit::NO_SUCH_PATCH)].contains(&code),
                    "{outcome}"
                );
            }
        }
        program.expect("round", old)?;
        before.expect_same_text()?;
        program.finish()?;
    }
    // Most of the moments are before the end of the command.
    ensure!(killed > MOMENTS, "{killed} commands were killed");
    Ok(())
}

/// Starts a command and kills it after some time; whether it had not ended before.
fn kill_after(command: &mut Command, time: Duration) -> Result<bool> {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    let started = Instant::now();
    let mut child = command.spawn()?;
    while started.elapsed() < time {
        std::thread::yield_now();
    }
    child.kill()?;
    Ok(child.wait()?.code().is_none())
}
