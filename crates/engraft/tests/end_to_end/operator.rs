//! What the operator's shell does to the command and to the program: limits, and kill at any moment.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Outcome, Program, Snapshot, TIME_LIMIT, exit, run};

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
        run(&mut command, TIME_LIMIT)?.exits(exit::OK)
    };
    program.expect("seven", "old: seven, 1")?;
    limited(&["apply", patch.to_str().context("a path that is no text")?])?;
    program.expect("seven", "new: seven, 2")?;
    limited(&["disable", "fix"])?;
    program.expect("seven", "old: seven, 3")?;
    before.expect_same_text()?;
    program.finish()
}

/// Whenever the program is killed, the command ends soon and says so, and nobody keeps the process.
#[test]
fn the_program_is_killed_at_any_moment() -> Result<()> {
    const MOMENTS: u32 = 12;
    /// Far above what it takes, far below what a hang takes.
    const SOON: Duration = Duration::from_secs(10);
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let mut program = victim.start("workers", &["300"])?;
    program.expect("round", "old=30000 new=0 wrong=0")?;
    let whole = engraft.apply(&patch, program.pid())?.exits(exit::OK)?.took;
    for moment in 0..MOMENTS {
        let program = victim.start("workers", &["300"])?;
        let pid = program.pid();
        let (engraft, patch) = (engraft.clone(), patch.clone());
        let started = Instant::now();
        let apply = std::thread::spawn(move || engraft.apply(&patch, pid));
        // The moments are spread over the time that it takes undisturbed; any is right.
        while started.elapsed() < whole * moment / MOMENTS {
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
