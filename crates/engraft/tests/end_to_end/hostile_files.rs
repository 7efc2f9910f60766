//! A process that puts other files in the place of those that a command opens in it, or that locks
//! itself: nothing happens outside of it, no command waits for ever, and when it leaves off it is
//! patched as any other.
//!
//! 200 attempts with `ENGRAFT_LONG_TESTS=1`, a handful without.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Engraft, Held, Program, TIME_LIMIT, Victim, exit, is_root, run, skip};

use crate::{engraft, victim};

/// The user "nobody" of Debian, who owns nothing.
const NOBODY: &str = "65534";

const SECRET: &str = "nobody but root reads or writes this";

fn attempts() -> usize {
    match std::env::var_os("ENGRAFT_LONG_TESTS") {
        Some(_) => 200,
        None => 8,
    }
}

/// A file that the process may not even read.
#[test]
fn a_file_of_somebody_else_in_the_place_of_a_memory_file() -> Result<()> {
    let Some(mut scene) = Scene::as_root("a_file_of_somebody_else_in_the_place_of_a_memory_file")?
    else {
        return Ok(());
    };
    let file = scene.victim.file("secret");
    fs::write(&file, SECRET)?;
    fs::set_permissions(&file, Permissions::from_mode(0o600))?;
    scene.attack(&file, || {
        let found = fs::read_to_string(&file)?;
        ensure!(found == SECRET, "the file is {found:?} now");
        Ok(())
    })
}

/// Opening a FIFO waits for its other end.
#[test]
fn a_fifo_in_the_place_of_a_memory_file() -> Result<()> {
    let Some(mut scene) = Scene::as_root("a_fifo_in_the_place_of_a_memory_file")? else {
        return Ok(());
    };
    let file = scene.victim.file("fifo");
    let made = Command::new("mkfifo").arg(&file).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    scene.attack(&file, || Ok(()))
}

#[test]
fn a_process_that_locks_itself() -> Result<()> {
    let Some(mut scene) = Scene::as_root("a_process_that_locks_itself")? else {
        return Ok(());
    };
    // Each command waits for two seconds for a lock that another process holds.
    for (how, attempts) in [("lock", attempts()), ("lock-in-child", attempts() / 8)] {
        scene.program.expect(how, "ok")?;
        for _ in 0..attempts {
            scene.there_and_back()?;
        }
        scene.restart()?;
    }
    Ok(())
}

/// One of its kind that an ordinary user starts.
struct Scene {
    engraft: Engraft,
    victim: Victim,
    patch: PathBuf,
    program: Program,
}

impl Scene {
    fn as_root(test: &str) -> Result<Option<Self>> {
        if !is_root()? {
            skip(
                test,
                "only root has what it may touch and the process may not",
            );
            return Ok(None);
        }
        let (engraft, victim) = (engraft(), victim("hostile")?);
        let patch = victim.patch(&engraft, "fix.patch", "fix", &["hostile"])?;
        let program = start(&victim)?;
        Ok(Some(Self {
            engraft,
            victim,
            patch,
            program,
        }))
    }

    fn restart(&mut self) -> Result<()> {
        let new = start(&self.victim)?;
        std::mem::replace(&mut self.program, new).finish()
    }

    /// Applies the patch, and takes everything back, while the file appears wherever something is
    /// opened.
    fn attack(&mut self, file: &Path, check: impl Fn() -> Result<()>) -> Result<()> {
        self.program.expect("ask", "100")?;
        let held = Held::take(self.program.pid())?;
        let swap = format!("swap {}", file.display());
        self.program.expect(&swap, "ok")?;
        let mut applied = 0;
        for attempt in 0..attempts() {
            let outcome = self.command(&["apply", self.patch()?, "--timeout", "3"])?;
            check().with_context(|| format!("attempt {attempt}: {outcome}"))?;
            if outcome.code == Some(exit::OK) {
                applied += 1;
                self.take_back()?;
            }
            check().with_context(|| format!("attempt {attempt}"))?;
        }
        println!("applied in {applied} of {} attempts", attempts());
        self.program.expect("calm", "ok")?;
        self.there_and_back()?;
        check()?;
        // The stacks of the threads that swapped stay with the C library.
        let now = fs::read_dir(format!("/proc/{}/fd", self.program.pid()))?.count();
        ensure!(now == held.descriptors(), "{now} descriptors are open");
        Ok(())
    }

    fn there_and_back(&mut self) -> Result<()> {
        let outcome = self.command(&["apply", self.patch()?])?;
        outcome.exits(exit::OK)?;
        self.program.expect("ask", "101")?;
        self.take_back()?;
        self.program.expect("ask", "100")
    }

    fn take_back(&self) -> Result<()> {
        for command in [
            &["disable", "fix"],
            &["remove", "fix"],
            &["remove", "--agent"],
        ] {
            self.command(command)?.exits(exit::OK)?;
        }
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.program.pid()))?;
        ensure!(!maps.contains(":engraft"), "something is left: {maps}");
        Ok(())
    }

    fn patch(&self) -> Result<&str> {
        self.patch.to_str().context("a path that is no text")
    }

    fn command(&self, arguments: &[&str]) -> Result<engraft_testkit::Outcome> {
        let mut command = self.engraft.command(arguments);
        command.args(["--pid", &self.program.pid().to_string()]);
        run(&mut command, TIME_LIMIT)
    }
}

fn start(victim: &Victim) -> Result<Program> {
    let program = victim.file("hostile");
    let program = program.to_str().context("a path that is no text")?;
    let line = [
        "--reuid",
        NOBODY,
        "--regid",
        NOBODY,
        "--clear-groups",
        program,
    ];
    let (program, said) = Program::start(Path::new("setpriv"), &line)?;
    ensure!(said == "ready", "the program {said}");
    Ok(program)
}
